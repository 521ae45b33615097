"""MSVD-QA: questions about short YouTube clips, made from their captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib
from . import video

_NUM_FRAMES, _STRIDE = 8, 26
_MAPPING = "youtube_mapping.txt"


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
  questions = {split: raw.json(f"{split}_qa.json") for split in ("train", "val", "test")}
  names = _names(raw)
  return {split: _records(raw, split, rows, names) for split, rows in questions.items()}


def _names(raw: raw_lib.Raw) -> dict[str, str]:
  """{'vid1': file name}, of lines with the name and then the number."""
  file = raw.file(_MAPPING)
  lines = [line.split() for line in file.read().decode("utf-8").splitlines() if line.strip()]
  if any(len(parts) != 2 for parts in lines):
    raise errors.DataError(f"{file}: every line must be '<name of the clip> vid<number>'.")
  return {number: name for name, number in lines}


def _records(
  raw: raw_lib.Raw, split: str, questions: list[dict[str, Any]], names: dict[str, str]
) -> list[build.Record]:
  rows = []
  for qa in questions:
    name = errors.pick(names, f"vid{qa['video_id']}", f"video of {_MAPPING}")
    rows.append((name, {
        "video_id": name,
        "question_id": qa["id"],
        "question": qa["question"],
        "answer": qa["answer"],
    }))  # fmt: skip
  found = video.with_video(raw, rows, what=f"msvd_qa {split}", folders=("YouTubeClips", "videos"))
  return [
    {"frames": video.Clip(file, num=_NUM_FRAMES, stride=_STRIDE, shared=True), **row}
    for file, row in found
  ]


DATASETS = (
  build.Dataset(
    name="msvd_qa",
    homepage="https://github.com/xudejing/video-question-answering",
    files=(
      "train_qa.json, val_qa.json, test_qa.json",
      "youtube_mapping.txt, and YouTubeClips/*.avi from YouTubeClips.tar, unpacked"
      " (https://www.cs.utexas.edu/users/ml/clamp/videoDescription/)",
    ),
    features=features,
    splits=splits,
  ),
)
