"""MMVP: 150 questions, each about two images that are nearly equal to CLIP."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_LETTER = re.compile(r"\(\s*([a-z])\s*\)", re.IGNORECASE)


def features() -> dict[str, Any]:
  """The columns.

  answers: the text of the correct option, and its letter as in '(a)'.
  pair: the number of the pair.
  """
  return {
    "image": tfds.features.Image(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "options": tfds.features.Sequence(tfds.features.Text()),
    "answers": tfds.features.Sequence(tfds.features.Text()),
    "pair": tfds.features.Scalar(np.int64),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """test, the only split."""
  rows = raw.csv("Questions.csv")
  return {"test": [_record(raw, number, row) for number, row in enumerate(rows, 1)]}


def _record(raw: raw_lib.Raw, number: int, row: dict[str, str]) -> build.Record:
  options = _options(row["Options"])
  letter = _LETTER.search(row["Correct Answer"])
  if not letter or letter[1].lower() not in options:
    raise errors.DataError(
      f"Questions.csv, question {number}: the correct answer {row['Correct Answer']!r} is none of"
      f" the options {row['Options']!r}."
    )
  return {
    # Images have the numbers of the questions, from 1.
    "image": raw.file(f"MMVP Images/{number}.jpg"),
    "question_id": number,
    "question": row["Question"],
    "options": list(options.values()),
    "answers": [options[letter[1].lower()], f"({letter[1].lower()})"],
    "pair": (number - 1) // 2,
  }


def _options(text: str) -> dict[str, str]:
  """{'a': 'Open', 'b': 'Closed'} of '(a) Open (b) Closed'."""
  _, *parts = _LETTER.split(text)
  return {
    letter.lower(): option.strip() for letter, option in zip(parts[::2], parts[1::2], strict=True)
  }


DATASETS = (
  build.Dataset(
    name="mmvp",
    homepage="https://huggingface.co/datasets/MMVP/MMVP",
    files=("Questions.csv", "MMVP Images/1.jpg to 300.jpg"),
    features=features,
    splits=splits,
  ),
)
