"""ActivityNet Captions: parts of long videos, each with one sentence."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib
from . import video

# Papers report scores on the second validation file, as the test sentences are not public.
_FILES = {"train": "train.json", "val": "val_1.json", "test": "val_2.json"}
_NUM_FRAMES, _STRIDE = 16, 30


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "frames": video.feature(),
    "clip_id": tfds.features.Text(),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val (the first set of sentences) and test (the second)."""
  return {split: _records(raw, split, name) for split, name in _FILES.items()}


def _records(raw: raw_lib.Raw, split: str, name: str) -> list[build.Record]:
  rows = []
  for video_id, about in raw.json(name, f"captions/{name}").items():
    for (start, end), text in zip(about["timestamps"], about["sentences"], strict=True):
      row = {"clip_id": f"{video_id}[{start:g}-{end:g}]", "captions": [text.strip()]}
      rows.append((video_id, {"part": (float(start), float(end)), "row": row}))
  found = video.with_video(raw, rows, what=f"activitynet_cap {split}", folders=("videos",))
  return [
    {
      "frames": video.Clip(
        file, num=_NUM_FRAMES, stride=_STRIDE, start=of["part"][0], end=of["part"][1]
      ),
      **of["row"],
    }
    for file, of in found
  ]


DATASETS = (
  build.Dataset(
    name="activitynet_cap",
    homepage="https://cs.stanford.edu/people/ranjaykrishna/densevid/",
    files=(
      "train.json, val_1.json, val_2.json (captions.zip)",
      "videos/v_….mp4 or .mkv (http://activity-net.org/download.html)",
    ),
    features=features,
    splits=splits,
  ),
)
