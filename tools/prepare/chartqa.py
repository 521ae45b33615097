"""ChartQA: questions about charts, written by people ('human') and by a model ('augmented')."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_FOLDER = "ChartQA Dataset"


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw, name: str) -> dict[str, list[build.Record]]:
  """train, val and test: the authors' splits."""
  return {split: _records(raw, split, name) for split in ("train", "val", "test")}


def _records(raw: raw_lib.Raw, split: str, name: str) -> list[build.Record]:
  rows = raw.json(*_places(f"{split}/{split}_{name}.json"))
  return [
    {
      "image": raw.file(*_places(f"{split}/png/{row['imgname']}")),
      "image_id": row["imgname"],
      "question_id": number,
      "question": row["query"],
      "answer": row["label"],
    }
    for number, row in enumerate(rows)
  ]


def _places(name: str) -> tuple[str, str]:
  """The file in the zip's folder, or in the raw folder itself."""
  return f"{_FOLDER}/{name}", name


DATASETS = tuple(
  build.Dataset(
    name=f"chartqa/{name}",
    homepage="https://huggingface.co/datasets/ahmed-masry/ChartQA",
    files=(f"{_FOLDER}.zip",),
    features=features,
    splits=functools.partial(splits, name=name),
  )
  for name in ("human", "augmented")
)
