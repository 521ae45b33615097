"""CountBenchQA: counting, on 490 images with two to ten objects of a kind.

The download lacks images whose pages were gone, and one in grey is left out; PaliGemma was scored
on the same images.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_IMAGES = "train-00000-of-00001-cf54c241ba947306.parquet"
_QUESTIONS = "countbench_paired_questions.json"


def features() -> dict[str, Any]:
  """The columns; `text` is the image's original caption."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "number": tfds.features.Scalar(np.int64),
    "text": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """huggingface, PaliGemma's name for the only split."""
  file = raw.file(_IMAGES, f"data/{_IMAGES}")
  try:
    rows = pyarrow.parquet.read_table(pyarrow.BufferReader(file.read())).to_pylist()
  except pyarrow.ArrowInvalid as e:
    raise errors.DataError(f"{file} is no Parquet file: {e}. Download it again.") from None
  questions = raw.json(_QUESTIONS)
  if len(questions) != len(rows):
    raise errors.DataError(
      f"{file} has {len(rows)} images, but {_QUESTIONS} {len(questions)} questions; they belong"
      " together line by line."
    )
  return {"huggingface": list(_records(rows, questions))}


def _records(rows: list[dict[str, Any]], questions: list[dict[str, str]]) -> Iterator[build.Record]:
  for i, (row, question) in enumerate(zip(rows, questions, strict=True)):
    if row["image"] is None or not _has_colors(row["image"]["bytes"], i):
      continue
    yield {
      "image": row["image"]["bytes"],
      "image_id": i,
      "question": question["question"],
      "number": row["number"],
      "text": row["text"],
    }


def _has_colors(data: bytes, i: int) -> bool:
  try:
    with PIL.Image.open(io.BytesIO(data)) as image:
      return len(image.getbands()) > 1
  except (OSError, ValueError) as e:
    raise errors.DataError(f"{_IMAGES}: image {i} cannot be read: {e}") from None


DATASETS = (
  build.Dataset(
    name="countbenchqa",
    homepage="https://huggingface.co/datasets/nielsr/countbench",
    files=(
      _IMAGES,
      f"{_QUESTIONS}, from big_vision/datasets/countbenchqa/data/ of"
      " https://github.com/google-research/big_vision",
    ),
    features=features,
    splits=splits,
  ),
)
