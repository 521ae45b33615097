"""NLVR2: is a sentence about two photographs true?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_SPLITS = {"train": "train", "dev": "dev", "test": "test1"}  # Ours and the files' names.


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image_left": tfds.features.Image(),
    "image_right": tfds.features.Image(),
    "question_id": tfds.features.Text(),
    "sentence": tfds.features.Text(),
    "label": tfds.features.Text(),  # True or False.
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, dev and the public test."""
  return {
    split: [_record(raw, name, row) for row in raw.jsonl(f"{name}.json", f"data/{name}.json")]
    for split, name in _SPLITS.items()
  }


def _record(raw: raw_lib.Raw, split: str, row: Mapping[str, Any]) -> build.Record:
  # 'dev-850-0-1' is sentence 1 about the pair 'dev-850-0'.
  pair = row["identifier"].rpartition("-")[0]
  folder = f"images/train/{row['directory']}" if split == "train" else split
  left, right = (
    raw.file(f"{folder}/{pair}-img{i}.png", f"{split}_img/{folder}/{pair}-img{i}.png")
    for i in (0, 1)
  )
  return {
    "image_left": left,
    "image_right": right,
    "question_id": row["identifier"],
    "sentence": row["sentence"],
    "label": str(row["label"]),
  }


DATASETS = (
  build.Dataset(
    name="nlvr2",
    homepage="https://github.com/lil-lab/nlvr/tree/master/nlvr2",
    files=(
      "train.json, dev.json, test1.json (of the repository's data/)",
      "train_img.zip (or images/train/0/train-….png, …), dev_img.zip (or dev/…),"
      " test1_img.zip (or test1/…): the images, on request there",
    ),
    features=features,
    splits=splits,
  ),
)
