"""ActivityNet-QA: questions of people about long videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib
from . import video

_NUM_FRAMES, _STRIDE = 16, 70


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "frames": video.feature(),
    "video_id": tfds.features.Text(),
    "question_id": tfds.features.Text(),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
    "type": tfds.features.Scalar(np.int64),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the authors' splits."""
  return {split: _records(raw, split) for split in ("train", "val", "test")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  questions = raw.json(f"{split}_q.json", f"dataset/{split}_q.json")
  answers = {a["question_id"]: a for a in raw.json(f"{split}_a.json", f"dataset/{split}_a.json")}
  rows = []
  for q in questions:
    a = errors.pick(answers, q["question_id"], f"question of {split}_a.json")
    rows.append((f"v_{q['video_name']}", {
        "video_id": f"v_{q['video_name']}",
        "question_id": q["question_id"],
        "question": q["question"],
        "answer": a["answer"],
        "type": a["type"],
    }))  # fmt: skip
  found = video.with_video(raw, rows, what=f"activitynet_qa {split}", folders=("videos",))
  return [
    {"frames": video.Clip(file, num=_NUM_FRAMES, stride=_STRIDE, shared=True), **row}
    for file, row in found
  ]


DATASETS = (
  build.Dataset(
    name="activitynet_qa",
    homepage="https://github.com/MILVLG/activitynet-qa",
    files=(
      "train_q.json, train_a.json, val_q.json, val_a.json, test_q.json, test_a.json",
      "videos/v_….mp4 or .mkv (http://activity-net.org/download.html)",
    ),
    features=features,
    splits=splits,
  ),
)
