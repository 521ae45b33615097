"""OCR-VQA: about five questions on each of 207 572 book covers.

The site has dataset.json and a script that downloads the covers from a shop, which no longer has
all of them. Missing covers are left out with a warning, as for videos.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_SPLITS = {1: "train", 2: "val", 3: "test"}
# Copies of the covers may have other endings than their addresses.
_ENDINGS = (".jpg", ".gif", ".png")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test, by each book's number; questions are numbered consecutively."""
  books = raw.json("dataset.json")
  records: dict[str, list[build.Record]] = {split: [] for split in _SPLITS.values()}
  question_id, missing = 0, []
  for image_id, book in books.items():
    split = errors.pick(_SPLITS, book["split"], f"split of book {image_id}")
    image = _cover(raw, image_id, book["imageURL"])
    if image is None:
      missing.append(image_id)
    for question, answer in zip(book["questions"], book["answers"], strict=True):
      if image is not None:
        records[split].append({
            "image": image,
            "image_id": image_id,
            "question_id": question_id,
            "question": question,
            "answer": answer,
        })  # fmt: skip
      question_id += 1  # Missing covers count too, so that numbers do not depend on them.
  if books and len(missing) == len(books):
    raw.file(f"images/{missing[0]}.jpg")  # Raises the error with its name.
  if missing:
    print(
      f"ocrvqa: {len(missing)} of {len(books)} covers are not in {raw.folder} and are left out:"
      f" {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}",
      file=sys.stderr,
    )
  return records


def _cover(raw: raw_lib.Raw, image_id: str, url: str) -> raw_lib.RawFile | None:
  for ending in dict.fromkeys((pathlib.PurePosixPath(url).suffix, *_ENDINGS)):
    found = raw.find(f"images/{image_id}{ending}")
    if found is not None:
      return found
  return None


DATASETS = (
  build.Dataset(
    name="ocrvqa",
    homepage="https://ocr-vqa.github.io/",
    files=(
      "dataset.json",
      "images/ (the covers, as the site's loadDataset.py fetches them), or images.zip",
    ),
    features=features,
    splits=splits,
  ),
)
