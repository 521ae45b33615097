"""TextCaps: images with text, and five captions each that refer to it."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

_FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}
# Not needed: lists of words for each caption.
_UNREAD = ("caption_tokens", "reference_strs", "reference_tokens", "image_classes")


def features() -> dict[str, Any]:
  """The columns; the captions of test are not public."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test: the site's splits; the file has an entry for each caption."""
  return {split: _records(raw, split) for split in _FOLDERS}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  captions: dict[str, list[str]] = {}
  for entry in raw.json(f"TextCaps_0.1_{split}.json", without=_UNREAD)["data"]:
    found = captions.setdefault(entry["image_id"], [])
    if entry.get("caption_str"):
      found.append(entry["caption_str"])
  folder = _FOLDERS[split]
  return [
      # The folder of train and val is train_images.
      {"image": raw.file(f"{folder}/{i}.jpg", f"train_val_images/{folder}/{i}.jpg"),
       "image_id": i, "captions": texts}
      for i, texts in captions.items()
  ]  # fmt: skip


DATASETS = (
  build.Dataset(
    name="textcaps",
    homepage="https://textvqa.org/textcaps/dataset/",
    files=(
      "TextCaps_0.1_train.json, TextCaps_0.1_val.json, TextCaps_0.1_test.json",
      "train_val_images.zip, test_images.zip",
    ),
    features=features,
    splits=splits,
  ),
)
