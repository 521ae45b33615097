"""OK-VQA: questions about COCO images that need outside knowledge, ten answers each.

The annotations have each answer twice: as it was typed, and its stem, which the official tool and
the published scores use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib


def features() -> dict[str, Any]:
  """The columns: `answers` are stems, `raw_answers` the original answers."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answers": tfds.features.Sequence(tfds.features.Text()),
    "raw_answers": tfds.features.Sequence(tfds.features.Text()),
    "answer_type": tfds.features.Text(),
    "question_type": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train and val: the site's splits."""
  return {"train": _records(raw, "train"), "val": _records(raw, "val")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  questions = raw.json(f"OpenEnded_mscoco_{split}2014_questions.json")["questions"]
  annotations = raw.json(f"mscoco_{split}2014_annotations.json")["annotations"]
  answers = {a["question_id"]: a for a in annotations}
  return [_record(raw, split, q, answers[q["question_id"]]) for q in questions]


def _record(
  raw: raw_lib.Raw, split: str, question: Mapping[str, Any], annotation: Mapping[str, Any]
) -> build.Record:
  image_id = question["image_id"]
  return {
    "image": raw.file(f"{split}2014/COCO_{split}2014_{image_id:012d}.jpg"),
    "image_id": image_id,
    "question_id": question["question_id"],
    "question": question["question"],
    "answers": [a["answer"] for a in annotation["answers"]],
    "raw_answers": [a["raw_answer"] for a in annotation["answers"]],
    "answer_type": annotation["answer_type"],
    "question_type": annotation["question_type"],
  }


DATASETS = (
  build.Dataset(
    name="okvqa",
    homepage="https://okvqa.allenai.org/download.html",
    files=(
      "OpenEnded_mscoco_train2014_questions.json, OpenEnded_mscoco_val2014_questions.json",
      "mscoco_train2014_annotations.json, mscoco_val2014_annotations.json",
      "train2014.zip, val2014.zip (images, https://cocodataset.org/#download)",
    ),
    features=features,
    splits=splits,
    version="1.1.0",  # 1.0.0 had the original answers in `answers`.
  ),
)
