"""GQA: generated questions about everyday images; the balanced parts.

Left out are all_questions of train (14 million, not used for PaliGemma) and the parts without
public answers, for which the server requires a file of four million answers.
"""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

# Not needed, and most of the files' gigabytes.
_UNUSED = ("semantic", "semanticStr", "entailed", "equivalent", "annotations", "groups", "types")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Text(),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
    "full_answer": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train_balanced, val_balanced and testdev_balanced: the site's splits."""
  return {f"{split}_balanced": _records(raw, split) for split in ("train", "val", "testdev")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  name = f"{split}_balanced_questions.json"
  questions = raw.json(name, f"questions1.2/{name}", f"questions/{name}", without=_UNUSED)
  return [
    {
      "image": raw.file(f"images/{question['imageId']}.jpg"),
      "image_id": question["imageId"],
      "question_id": question_id,
      "question": question["question"],
      "answer": question["answer"],
      "full_answer": question["fullAnswer"],
    }
    for question_id, question in questions.items()
  ]


DATASETS = (
  build.Dataset(
    name="gqa",
    homepage="https://cs.stanford.edu/people/dorarad/gqa/download.html",
    files=("questions1.2.zip", "images.zip"),
    features=features,
    splits=splits,
  ),
)
