"""TallyQA: how many are there? On images of COCO and Visual Genome."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

# The names of Visual Genome's two zip files differ from those of their folders.
_PLACES = {
  "VG_100K": ("images/VG_100K",),
  "VG_100K_2": ("images2/VG_100K_2", "images/VG_100K_2"),
  "train2014": (),
  "val2014": (),
}


def features() -> dict[str, Any]:
  """The columns; `issimple` is 1 or 0, and -1 in train, where it is unknown."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answer": tfds.features.Scalar(np.int64),
    "issimple": tfds.features.Scalar(np.int64),
    "data_source": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train and test: the authors' splits."""
  return {split: _records(raw, split) for split in ("train", "test")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  rows = raw.json(f"{split}.json", f"tallyqa/{split}.json")
  return [_record(raw, split, row) for row in rows]


def _record(raw: raw_lib.Raw, split: str, row: dict[str, Any]) -> build.Record:
  return {
    "image": _image(raw, row["image"]),
    "image_id": row["image_id"],
    "question_id": row["question_id"],
    "question": row["question"],
    "answer": int(row["answer"]),
    "issimple": int(row["issimple"]) if split == "test" else -1,
    "data_source": row["data_source"],
  }


def _image(raw: raw_lib.Raw, name: str) -> raw_lib.RawFile:
  """The file 'train2014/x.jpg' or 'VG_100K_2/x.jpg'."""
  folder, _, file = name.rpartition("/")
  if folder not in _PLACES:
    raise errors.DataError(
      f"TallyQA: the image {name!r} is in none of the folders {', '.join(_PLACES)}."
    )
  return raw.file(name, *(f"{place}/{file}" for place in _PLACES[folder]))


DATASETS = (
  build.Dataset(
    name="tallyqa",
    homepage="https://github.com/manoja328/TallyQA_dataset",
    files=(
      "tallyqa.zip (train.json, test.json)",
      "images.zip, images2.zip (Visual Genome 1.2, https://homes.cs.washington.edu/~ranjay/"
      "visualgenome/api.html)",
      "train2014.zip, val2014.zip (https://cocodataset.org/#download)",
    ),
    features=features,
    splits=splits,
  ),
)
