"""A-OKVQA: questions about COCO images that need outside knowledge; choices and free answers.

One dataset for both tasks. The answers of test are not public: `answer` is empty there,
`direct_answers` too, and `correct_choice_idx` is -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question_id": tfds.features.Text(),
    "question": tfds.features.Text(),
    "choices": tfds.features.Sequence(tfds.features.Text()),
    "correct_choice_idx": tfds.features.Scalar(np.int64),
    "answer": tfds.features.Text(),
    "direct_answers": tfds.features.Sequence(tfds.features.Text()),
    "difficult_direct_answer": tfds.features.Scalar(np.bool_),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the site's splits."""
  return {split: _records(raw, split) for split in ("train", "val", "test")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  name = f"aokvqa_v1p0_{split}.json"
  rows = raw.json(name, f"aokvqa_v1p0/{name}")
  return [_record(raw, split, row) for row in rows]


def _record(raw: raw_lib.Raw, split: str, row: Mapping[str, Any]) -> build.Record:
  choices = row["choices"]
  correct = -1 if split == "test" else row["correct_choice_idx"]
  if correct >= len(choices):
    raise errors.DataError(
      f"A-OKVQA {split}, question {row['question_id']!r}: choice {correct} of {choices!r}."
    )
  return {
    "image": raw.file(f"{split}2017/{row['image_id']:012d}.jpg"),
    "image_id": row["image_id"],
    "question_id": row["question_id"],
    "question": row["question"],
    "choices": choices,
    "correct_choice_idx": correct,
    "answer": choices[correct] if correct >= 0 else "",
    "direct_answers": [] if split == "test" else row["direct_answers"],
    "difficult_direct_answer": row["difficult_direct_answer"],
  }


DATASETS = (
  build.Dataset(
    name="aokvqa",
    homepage="https://github.com/allenai/aokvqa",
    files=(
      "aokvqa_v1p0_train.json, aokvqa_v1p0_val.json, aokvqa_v1p0_test.json"
      " (from aokvqa_v1p0.tar.gz)",
      "train2017.zip, val2017.zip, test2017.zip (images, https://cocodataset.org/#download)",
    ),
    features=features,
    splits=splits,
  ),
)
