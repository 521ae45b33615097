"""VizWiz-VQA: questions that blind people asked about images they took, ten answers each."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib


def features() -> dict[str, Any]:
  """The columns; `answerable` is -1 where it is not public."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answers": tfds.features.Sequence(tfds.features.Text()),
    "answer_type": tfds.features.Text(),
    "answerable": tfds.features.Scalar(np.int64),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the site's splits; the answers of test are not public."""
  return {split: _records(raw, split) for split in ("train", "val", "test")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  rows = raw.json(f"Annotations/{split}.json", f"{split}.json")
  return [_record(raw, split, row) for row in rows]


def _record(raw: raw_lib.Raw, split: str, row: Mapping[str, Any]) -> build.Record:
  image = row["image"]
  return {
    "image": raw.file(f"{split}/{image}"),
    "image_id": image,
    "question_id": _number(image),
    "question": row["question"],
    # A few are empty.
    "answers": [a["answer"] for a in row.get("answers", []) if a["answer"]],
    "answer_type": row.get("answer_type", ""),
    "answerable": row.get("answerable", -1),
  }


def _number(image: str) -> int:
  """7 of VizWiz_train_00000007.jpg."""
  digits = pathlib.PurePosixPath(image).stem.rpartition("_")[2]
  if not digits.isdecimal():
    raise errors.DataError(f"VizWiz: {image!r} is no name such as VizWiz_train_00000007.jpg.")
  return int(digits)


DATASETS = (
  build.Dataset(
    name="vizwizvqa",
    homepage="https://vizwiz.org/tasks-and-datasets/vqa/",
    files=(
      "Annotations.zip (train.json, val.json, test.json)",
      "train.zip, val.zip, test.zip (images)",
    ),
    features=features,
    splits=splits,
  ),
)
