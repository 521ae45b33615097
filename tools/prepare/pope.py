"""POPE: is the object in the image? Three sets of 3 000 questions about COCO images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_SETS = ("random", "popular", "adversarial")


def features() -> dict[str, Any]:
  """The columns; `answer` is yes or no."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw, name: str) -> dict[str, list[build.Record]]:
  """test, the only split."""
  file = f"coco_pope_{name}.json"  # JSON lines, despite its name.
  lines = raw.jsonl(file, f"output/coco/{file}", f"coco/{file}")
  return {"test": [_record(raw, line) for line in lines]}


def _record(raw: raw_lib.Raw, line: dict[str, Any]) -> build.Record:
  return {
    "image": raw.file(f"val2014/{line['image']}"),
    "image_id": line["image"],
    "question_id": line["question_id"],
    "question": line["text"],
    "answer": line["label"],
  }


DATASETS = tuple(
  build.Dataset(
    name=f"pope/{name}",
    homepage="https://github.com/RUCAIBox/POPE",
    files=(
      f"coco_pope_{name}.json, from output/coco/ of the repository",
      "val2014.zip (images, https://cocodataset.org/#download)",
    ),
    features=features,
    splits=functools.partial(splits, name=name),
  )
  for name in _SETS
)
