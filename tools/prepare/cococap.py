"""COCO captions: photographs with five captions each, in the splits of Karpathy."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

KARPATHY = ("dataset_coco.json", "caption_datasets/dataset_coco.json")
_SPLITS = ("train", "restval", "val", "test")
# Not needed; two million lists would take memory.
_UNREAD = ("tokens", "sentids", "imgid", "sentid")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, restval (the part of COCO's val for training), val and test."""
  found: dict[str, list[build.Record]] = {split: [] for split in _SPLITS}
  for image in raw.json(*KARPATHY, without=_UNREAD)["images"]:
    if image["split"] not in found:
      raise errors.DataError(
        f"dataset_coco.json has a split {image['split']!r}; expected {', '.join(_SPLITS)}."
      )
    found[image["split"]].append(
      {
        "image": raw.file(f"{image['filepath']}/{image['filename']}"),
        "image_id": image["cocoid"],
        "captions": [sentence["raw"].strip() for sentence in image["sentences"]],
      }
    )
  return found


DATASETS = (
  build.Dataset(
    name="cococap",
    homepage="http://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    files=(
      "caption_datasets.zip, or dataset_coco.json out of it",
      "train2014.zip, val2014.zip (images, https://cocodataset.org/#download)",
    ),
    features=features,
    splits=splits,
  ),
)
