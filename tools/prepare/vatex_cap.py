"""VATEX: clips of ten seconds with ten English captions each."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib
from . import video

_FILES = {
  "train": "vatex_training_v1.0.json",
  "val": "vatex_validation_v1.0.json",
  "test": "vatex_public_test_english_v1.1.json",
}
_NUM_FRAMES, _STRIDE = 16, 7


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "frames": video.feature(),
    "video_id": tfds.features.Text(),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and the public test set."""
  return {split: _records(raw, split, name) for split, name in _FILES.items()}


def _records(raw: raw_lib.Raw, split: str, name: str) -> list[build.Record]:
  rows = [
    (clip["videoID"], {"video_id": clip["videoID"], "captions": clip["enCap"]})
    for clip in raw.json(name)
  ]
  found = video.with_video(raw, rows, what=f"vatex_cap {split}", folders=("videos",))
  return [
    {"frames": video.Clip(file, num=_NUM_FRAMES, stride=_STRIDE), **row} for file, row in found
  ]


DATASETS = (
  build.Dataset(
    name="vatex_cap",
    homepage="https://eric-xw.github.io/vatex-website/download.html",
    files=(
      ", ".join(_FILES.values()),
      "videos/<videoID>.mp4: the clips of Kinetics-600, cut to the seconds in their names",
    ),
    features=features,
    splits=splits,
  ),
)
