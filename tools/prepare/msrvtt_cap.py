"""MSR-VTT captions: clips of 10 to 30 seconds with twenty captions each."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib
from . import video

_SPLITS = {"train": "train", "val": "validate", "test": "test"}  # Ours and the file's names.
_NUM_FRAMES, _STRIDE = 16, 9
_FOLDERS = ("TrainValVideo", "TestVideo", "videos")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "frames": video.feature(),
    "video_id": tfds.features.Text(),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test of the challenge of 2016."""
  infos = [
    raw.json("train_val_videodatainfo.json", "train_val_annotation/train_val_videodatainfo.json"),
    raw.json("test_videodatainfo.json", "test_annotation/test_videodatainfo.json"),
  ]
  captions: dict[str, list[str]] = {}
  for info in infos:
    for sentence in info["sentences"]:
      captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
  videos = [v for info in infos for v in info["videos"]]
  return {
    split: _records(raw, split, [v["video_id"] for v in videos if v["split"] == name], captions)
    for split, name in _SPLITS.items()
  }


def _records(
  raw: raw_lib.Raw, split: str, names: list[str], captions: dict[str, list[str]]
) -> list[build.Record]:
  rows = [(name, {"video_id": name, "captions": captions[name]}) for name in names]
  found = video.with_video(raw, rows, what=f"msrvtt_cap {split}", folders=_FOLDERS)
  return [
    {"frames": video.Clip(file, num=_NUM_FRAMES, stride=_STRIDE), **row} for file, row in found
  ]


DATASETS = (
  build.Dataset(
    name="msrvtt_cap",
    homepage="http://ms-multimedia-challenge.com/2016/dataset",
    files=(
      "train_val_videodatainfo.json, test_videodatainfo.json",
      "TrainValVideo/video0.mp4, …, TestVideo/video7010.mp4, … (or all in videos/)",
    ),
    features=features,
    splits=splits,
  ),
)
