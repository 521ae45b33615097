"""ScienceQA: multiple choice from school lessons; the questions that have an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_TEXTS = ("question", "task", "grade", "subject", "topic", "category", "skill", "lecture",
          "solution")  # fmt: skip


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "question_id": tfds.features.Text(),
    "choices": tfds.features.Sequence(tfds.features.Text()),
    "answer": tfds.features.Scalar(np.int64),  # The index of the choice, from 0.
    "hint": tfds.features.Text(),  # 'N/A' without one, as in the download.
    **{name: tfds.features.Text() for name in _TEXTS},
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the site's splits."""
  problems = raw.json("problems.json", "data/scienceqa/problems.json", "scienceqa/problems.json")
  made: dict[str, list[build.Record]] = {"train": [], "val": [], "test": []}
  for question_id, problem in problems.items():
    if problem["image"]:
      made[problem["split"]].append(_record(raw, question_id, problem))
  return made


def _record(raw: raw_lib.Raw, question_id: str, problem: Mapping[str, Any]) -> build.Record:
  path = f"{problem['split']}/{question_id}/{problem['image']}"
  return {
    "image": raw.file(path, f"images/{path}"),
    "question_id": question_id,
    "choices": problem["choices"],
    "answer": problem["answer"],
    "hint": problem["hint"] or "N/A",
    **{name: problem[name] for name in _TEXTS},
  }


DATASETS = (
  build.Dataset(
    name="science_qa",
    homepage="https://scienceqa.github.io/#download",
    files=("problems.json", "train.zip, val.zip, test.zip (images: train/1/image.png, …)"),
    features=features,
    splits=splits,
  ),
)
