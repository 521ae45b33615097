"""xGQA: GQA's balanced testdev questions in eight languages; the answers stay English."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

LANGUAGES = ("bn", "de", "en", "id", "ko", "pt", "ru", "zh")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Text(),
    "language": tfds.features.Text(),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """test_zs_bn, …: the zero-shot test of each language."""
  return {f"test_zs_{language}": _records(raw, language) for language in LANGUAGES}


def _records(raw: raw_lib.Raw, language: str) -> list[build.Record]:
  name = f"testdev_balanced_questions_{language}.json"
  questions = raw.json(name, f"zero_shot/{name}", f"data/zero_shot/{name}")
  return [
    {
      "image": raw.file(f"images/{question['imageId']}.jpg"),
      "image_id": question["imageId"],
      "question_id": question_id,
      "language": language,
      "question": question["question"],
      "answer": question["answer"],
    }
    for question_id, question in questions.items()
  ]


DATASETS = (
  build.Dataset(
    name="xgqa",
    homepage="https://github.com/adapter-hub/xGQA",
    files=(
      "testdev_balanced_questions_bn.json, …_zh.json (from data/zero_shot/)",
      "images.zip (https://cs.stanford.edu/people/dorarad/gqa/download.html)",
    ),
    features=features,
    splits=splits,
  ),
)
