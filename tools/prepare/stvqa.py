"""ST-VQA: questions on text in images of seven other datasets (task 3, the open dictionary).

The official download has no validation split. Papers use 1 893 images of train that it does not
list; a file val_images.txt in the raw folder may list them, one `file_path` a line. Without it val
is a tenth of the images, chosen by their names, and its scores are only roughly comparable.
"""

from __future__ import annotations

import sys
import zlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_COCO = "coco-text/"
_VAL_IMAGES = "val_images.txt"
_FOLDERS = {"train": "train_images", "test": "test_task3_images"}


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
  """train and val of the official train, and test, whose answers are not public."""
  data = {part: _rows(raw, f"{part}_task_3.json") for part in _FOLDERS}
  in_val = _in_val(raw, {row["file_path"] for row in data["train"]})
  rows = {
    "train": [row for row in data["train"] if row["file_path"] not in in_val],
    "val": [row for row in data["train"] if row["file_path"] in in_val],
    "test": data["test"],
  }
  records = {split: [_record(raw, split, row) for row in rows[split]] for split in rows}
  small = {r["image_id"] for part in records.values() for r in part if _is_small(r)}
  if small:
    print(
      f"stvqa: {len(small)} images of COCO-Text are as small as ST-VQA ships them; put COCO's"
      f" own train2014.zip (https://cocodataset.org/#download) into {raw.folder} to have them in"
      " full size.",
      file=sys.stderr,
    )
  return records


def _rows(raw: raw_lib.Raw, name: str) -> list[dict[str, Any]]:
  return raw.json(name, f"ST-VQA/{name}")["data"]


def _in_val(raw: raw_lib.Raw, paths: set[str]) -> set[str]:
  """The images of val: those listed, or a tenth."""
  listed = raw.find(_VAL_IMAGES)
  if listed is None:
    return {path for path in paths if zlib.crc32(path.encode()) % 10 == 0}
  chosen = set(listed.read().decode("utf-8").split())
  strangers = sorted(chosen - paths)
  if strangers:
    hint = errors.did_you_mean(strangers[0], sorted(paths))
    raise errors.DataError(
      f"{listed}: {len(strangers)} lines are no image of train, as {strangers[0]!r}.{hint}"
    )
  return chosen


def _record(raw: raw_lib.Raw, split: str, row: dict[str, Any]) -> build.Record:
  return {
    "image": _image(raw, _FOLDERS["test" if split == "test" else "train"], row["file_path"]),
    "image_id": row["file_path"],
    "question_id": row["question_id"],
    "question": row["question"],
    "answers": row.get("answers", []),
  }


def _image(raw: raw_lib.Raw, folder: str, path: str) -> raw_lib.RawFile:
  """COCO's own file if present: ST-VQA's copies are 256 pixels wide."""
  if path.startswith(_COCO):
    full = raw.find(f"train2014/{path.removeprefix(_COCO)}")
    if full is not None:
      return full
  return raw.file(f"{folder}/{path}", f"ST-VQA/{folder}/{path}")


def _is_small(record: build.Record) -> bool:
  return _COCO in record["image"].name


DATASETS = (
  build.Dataset(
    name="stvqa",
    homepage="https://rrc.cvc.uab.es/?ch=11&com=downloads",
    files=(
      "train_task_3.json, test_task_3.json, train_images/, test_task3_images/"
      " (ST-VQA.tar.gz unpacked)",
      "train2014.zip (COCO's own images, larger; https://cocodataset.org/#download)",
      "val_images.txt (optional: the images of train that are val, one file_path a line)",
    ),
    features=features,
    splits=splits,
  ),
)
