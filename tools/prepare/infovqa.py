"""InfographicVQA: questions on infographics.

In val all orders of several spans are true answers. As in the reference, any answer with a comma
and a blank is several spans, even 'Rome, Italy'. train keeps the original order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_FILES = {
  "train": ("infographicsVQA_train_v1.0.json", "infographicVQA_train_v1.0.json"),
  "val": ("infographicsVQA_val_v1.0_withQT.json", "infographicVQA_val_v1.0_withQT.json"),
  "test": ("infographicsVQA_test_v1.0.json", "infographicVQA_test_v1.0.json"),
}
_FOLDERS = ("infographicsvqa_images", "images")
_MOST_SPANS = 7  # 5040 orders.


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
  return {split: _records(raw, split) for split in _FILES}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  names = _FILES[split]
  rows = raw.json(*names, *(f"infographicsvqa_qas/{name}" for name in names))["data"]
  return [
    {
      "image": raw.file(*(f"{folder}/{row['image_local_name']}" for folder in _FOLDERS)),
      "image_id": row["image_local_name"],
      "question_id": row["questionId"],
      "question": row["question"],
      "answers": all_orders(row["answers"]) if split == "val" else row.get("answers", []),
    }
    for row in rows
  ]


def all_orders(written: Sequence[str]) -> list[str]:
  """The answers of a row of val, those with ', ' in all orders of their parts, the original first.

  More than seven parts keep their order, as a row could not hold all.
  """
  answers: dict[str, None] = {}
  for answer in written:
    spans = answer.split(", ")
    orders = itertools.permutations(spans) if len(spans) <= _MOST_SPANS else [spans]
    answers.update(dict.fromkeys(", ".join(order) for order in orders))
  return list(answers)


DATASETS = (
  build.Dataset(
    name="infovqa",
    homepage="https://rrc.cvc.uab.es/?ch=17&com=downloads",
    files=(
      "infographicsVQA_train_v1.0.json, infographicsVQA_val_v1.0_withQT.json,"
      " infographicsVQA_test_v1.0.json (from infographicsvqa_qas.zip)",
      "infographicsvqa_images/ (infographicsvqa_images.tar.gz unpacked)",
    ),
    features=features,
    splits=splits,
    version="1.1.0",  # 1.0.0 had all orders of multi-span answers only.
  ),
)
