"""VQAv2: questions about COCO images, ten answers each; the answers of the tests are not public."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

# {split: (the year's name in the files of questions, folders of images, the zip of questions)}.
_SPLITS = {
  "train": ("train2014", ("train2014",), "v2_Questions_Train_mscoco"),
  "validation": ("val2014", ("val2014",), "v2_Questions_Val_mscoco"),
  "test": ("test2015", ("test2015", "test2014"), "v2_Questions_Test_mscoco"),
  # A part of test with its own server.
  "test-dev": ("test-dev2015", ("test2015", "test2014"), "v2_Questions_Test_mscoco"),
}
_ANNOTATIONS = {
  "train": "v2_Annotations_Train_mscoco",
  "validation": "v2_Annotations_Val_mscoco",
}


# Not needed; millions of these would take memory.
_UNREAD = ("answer_id", "answer_confidence", "multiple_choice_answer")


def features() -> dict[str, Any]:
  """The columns; those of answers are empty where they are not public."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "question_type": tfds.features.Text(),
    "answer_type": tfds.features.Text(),
    "answers": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, validation, test and test-dev: the site's splits."""
  return {split: _records(raw, split) for split in _SPLITS}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  year, folders, archive = _SPLITS[split]
  questions = _json(raw, archive, f"v2_OpenEnded_mscoco_{year}_questions.json")["questions"]
  answers = {}
  if split in _ANNOTATIONS:
    found = _json(raw, _ANNOTATIONS[split], f"v2_mscoco_{year}_annotations.json")
    answers = {a["question_id"]: a for a in found["annotations"]}
  return [_record(raw, folders, q, _annotation(split, answers, q)) for q in questions]


def _json(raw: raw_lib.Raw, archive: str, name: str) -> Any:
  return raw.json(name, f"{archive}/{name}", without=_UNREAD)


def _annotation(
  split: str, answers: Mapping[int, Mapping[str, Any]], question: Mapping[str, Any]
) -> Mapping[str, Any]:
  """The annotation with the answers; {} of a test question."""
  if split not in _ANNOTATIONS:
    return {}
  if question["question_id"] not in answers:
    raise errors.DataError(
      f"The annotations of {split} have no answers to question {question['question_id']}; are"
      " both files of VQAv2, not of VQA 1?"
    )
  return answers[question["question_id"]]


def _record(
  raw: raw_lib.Raw,
  folders: tuple[str, ...],
  question: Mapping[str, Any],
  annotation: Mapping[str, Any],
) -> build.Record:
  image_id = question["image_id"]
  return {
    "image": raw.file(*(f"{f}/COCO_{f}_{image_id:012d}.jpg" for f in folders)),
    "image_id": image_id,
    "question_id": question["question_id"],
    "question": question["question"],
    "question_type": annotation.get("question_type", ""),
    "answer_type": annotation.get("answer_type", ""),
    "answers": [a["answer"] for a in annotation.get("answers", ())],
  }


DATASETS = (
  build.Dataset(
    name="vqav2",
    homepage="https://visualqa.org/download.html",
    files=(
      "v2_Questions_Train_mscoco.zip, v2_Questions_Val_mscoco.zip, v2_Questions_Test_mscoco.zip",
      "v2_Annotations_Train_mscoco.zip, v2_Annotations_Val_mscoco.zip",
      "train2014.zip, val2014.zip, test2015.zip (images, https://cocodataset.org/#download)",
    ),
    features=features,
    splits=splits,
  ),
)
