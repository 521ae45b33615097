"""MSRVTT-QA: questions about MSR-VTT's clips, made from their captions; answers are one word."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib
from . import video

_NUM_FRAMES, _STRIDE = 16, 9
_FOLDERS = ("TrainValVideo", "TestVideo", "videos")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "frames": video.feature(),
    "video_id": tfds.features.Text(),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the authors' splits."""
  return {split: _records(raw, split) for split in ("train", "val", "test")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  rows = [
    (
      f"video{qa['video_id']}",
      {
        "video_id": f"video{qa['video_id']}",
        "question_id": qa["id"],
        "question": qa["question"],
        "answer": qa["answer"],
      },
    )
    for qa in raw.json(f"{split}_qa.json")
  ]
  found = video.with_video(raw, rows, what=f"msrvtt_qa {split}", folders=_FOLDERS)
  return [
    {"frames": video.Clip(file, num=_NUM_FRAMES, stride=_STRIDE, shared=True), **row}
    for file, row in found
  ]


DATASETS = (
  build.Dataset(
    name="msrvtt_qa",
    homepage="https://github.com/xudejing/video-question-answering",
    files=(
      "train_qa.json, val_qa.json, test_qa.json",
      "the videos of MSR-VTT: TrainValVideo/video0.mp4, …, TestVideo/… (or all in videos/)",
    ),
    features=features,
    splits=splits,
  ),
)
