"""NoCaps: images of Open Images with objects that COCO's captions lack; ten captions each."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

# {split: (file, folder of the images)}.
_SPLITS = {
  "val": ("nocaps_val_4500_captions.json", "validation"),
  "test": ("nocaps_test_image_info.json", "test"),
}


def features() -> dict[str, Any]:
  """The columns; the captions of test are not public. `domain` is in, near or out of COCO's."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "open_images_id": tfds.features.Text(),
    "domain": tfds.features.Text(),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """val and test."""
  return {split: _records(raw, *places) for split, places in _SPLITS.items()}


def _records(raw: raw_lib.Raw, name: str, folder: str) -> list[build.Record]:
  info = raw.json(name)
  captions: dict[int, list[str]] = {}
  for annotation in info.get("annotations", ()):
    captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
  return [
    {
      "image": raw.file(f"{folder}/{i['file_name']}", f"Images/{folder}/{i['file_name']}"),
      "image_id": i["id"],
      "open_images_id": i.get("open_images_id", ""),
      "domain": i.get("domain", ""),
      "captions": captions.get(i["id"], []),
    }
    for i in info["images"]
  ]


DATASETS = (
  build.Dataset(
    name="nocaps",
    homepage="https://nocaps.org/download",
    files=(
      "nocaps_val_4500_captions.json, nocaps_test_image_info.json",
      "validation/….jpg, test/….jpg (unpacked from validation.tar.gz, test.tar.gz of Open"
      " Images V4, https://github.com/cvdfoundation/open-images-dataset)",
    ),
    features=features,
    splits=splits,
  ),
)
