"""DocVQA: questions on pages of scanned documents (the single-page task)."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_FILES = {
  "train": "train_v1.0_withQT.json",
  "val": "val_v1.0_withQT.json",
  "test": "test_v1.0.json",
}


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answers": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the site's splits; the answers of test are not public."""
  return {split: _records(raw, split) for split in _FILES}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  name = _FILES[split]
  rows = raw.json(name, f"spdocvqa_qas/{name}")["data"]
  return [
    {
      "image": _page(raw, split, row["image"]),
      "image_id": row["image"],
      "question_id": row["questionId"],
      "question": row["question"],
      "answers": row.get("answers", []),
    }
    for row in rows
  ]


def _page(raw: raw_lib.Raw, split: str, name: str) -> raw_lib.RawFile:
  """The image in the site's archive, or in the earlier one for each split, with documents/."""
  last = pathlib.PurePosixPath(name).name
  return raw.file(f"spdocvqa_images/{last}", f"{split}/{name}", name)


DATASETS = (
  build.Dataset(
    name="docvqa",
    homepage="https://rrc.cvc.uab.es/?ch=17&com=downloads",
    files=(
      "train_v1.0_withQT.json, val_v1.0_withQT.json, test_v1.0.json (from spdocvqa_qas.zip)",
      "spdocvqa_images/ (spdocvqa_images.tar.gz unpacked), or train/, val/, test/ of before",
    ),
    features=features,
    splits=splits,
  ),
)
