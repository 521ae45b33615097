"""TextVQA: questions that need reading, on OpenImages images, ten answers each.

Some images are rotated: OpenImages' lists give the angle, and they are turned upright here. Only
those are encoded again.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}
_ROTATIONS = {
  "train_images": "train-images-boxable-with-rotation.csv",
  "test_images": "test-images-with-rotation.csv",
}
_JPEG_QUALITY = 100
_TURNS = {0: None, 90: PIL.Image.Transpose.ROTATE_90, 180: PIL.Image.Transpose.ROTATE_180,
          270: PIL.Image.Transpose.ROTATE_270}  # fmt: skip


class Turned(raw_lib.RawFile):
  """A JPEG file that is rotated counterclockwise when its row is written."""

  def __init__(self, file: raw_lib.RawFile, degrees: int):
    super().__init__(file.name, file._path, file._member)
    self._degrees = degrees

  def read(self) -> bytes:
    """The turned image as a JPEG.

    Raises:
      DataError: not an image.
    """
    try:
      with PIL.Image.open(io.BytesIO(super().read())) as image:
        turned = image.convert("RGB").transpose(_TURNS[self._degrees])
    except (OSError, ValueError) as e:
      raise errors.DataError(f"Cannot turn {self} by {self._degrees} degrees: {e}") from None
    out = io.BytesIO()
    turned.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return out.getvalue()

  def __repr__(self) -> str:
    return f"Turned({self.name!r}, {self._degrees})"


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
  data = {split: raw.json(f"TextVQA_0.5.1_{split}.json")["data"] for split in _FOLDERS}
  wanted: dict[str, set[str]] = {folder: set() for folder in _ROTATIONS}
  for split, folder in _FOLDERS.items():
    wanted[folder] |= {row["image_id"] for row in data[split]}
  degrees = {
    folder: _degrees(raw, _ROTATIONS[folder], image_ids) for folder, image_ids in wanted.items()
  }
  return {
    split: [_record(raw, folder, row, degrees[folder]) for row in data[split]]
    for split, folder in _FOLDERS.items()
  }


def _degrees(raw: raw_lib.Raw, name: str, wanted: Collection[str]) -> dict[str, int]:
  """{image id: degrees} of rotation for these images; the list has many others."""
  found = {}
  for line in raw.csv_lines(name):
    if line["ImageID"] in wanted:
      # '90.0', or nothing where the original page was gone.
      degrees = float(line["Rotation"] or 0)
      if degrees not in _TURNS:
        raise errors.DataError(f"{name}: {line['ImageID']} has Rotation {line['Rotation']!r}.")
      found[line["ImageID"]] = int(degrees)
  missing = sorted(set(wanted) - found.keys())
  if missing:
    raise errors.DataError(f"{name} has no line for {len(missing)} images: {missing[0]}, ….")
  return found


def _record(
  raw: raw_lib.Raw, folder: str, row: dict[str, Any], degrees: dict[str, int]
) -> build.Record:
  image_id = row["image_id"]
  # train_images/ comes in train_val_images.zip.
  image = raw.file(f"{folder}/{image_id}.jpg", f"train_val_images/{folder}/{image_id}.jpg")
  return {
    "image": Turned(image, degrees[image_id]) if degrees[image_id] else image,
    "image_id": image_id,
    "question_id": row["question_id"],
    "question": row["question"],
    "answers": row.get("answers", []),
  }


DATASETS = (
  build.Dataset(
    name="textvqa",
    homepage="https://textvqa.org/dataset/",
    files=(
      "TextVQA_0.5.1_train.json, TextVQA_0.5.1_val.json, TextVQA_0.5.1_test.json",
      "train_val_images.zip, test_images.zip",
      "train-images-boxable-with-rotation.csv, test-images-with-rotation.csv"
      " (https://storage.googleapis.com/openimages/2018_04/train/, …/test/)",
    ),
    features=features,
    splits=splits,
  ),
)
