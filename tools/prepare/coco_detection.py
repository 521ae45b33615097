"""COCO 2017 for detection: boxes, labels and areas of 80 classes, crowds marked.

Unlike `coco/2017` of TFDS, it needs no TensorFlow, and has the areas of masks at full precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib


def features() -> dict[str, Any]:
  """The columns, named as those of `sources.Coco`."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "height": tfds.features.Scalar(np.int64),
    "width": tfds.features.Scalar(np.int64),
    # Fractions of the image: y_min, x_min, y_max, x_max.
    "boxes": tfds.features.Sequence(tfds.features.Tensor(shape=(4,), dtype=np.float32)),
    "labels": tfds.features.Sequence(tfds.features.Text()),
    "areas": tfds.features.Sequence(tfds.features.Scalar(np.float32)),
    "crowd": tfds.features.Sequence(tfds.features.Scalar(np.int64)),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train and val, including images without an object."""
  return {split: _records(raw, split) for split in ("train", "val")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  name = f"annotations/instances_{split}2017.json"
  # Outlines are nine tenths of the file and are not needed.
  content = raw.json(name, without=("segmentation",))
  names = {category["id"]: category["name"] for category in content["categories"]}
  rows = {}
  for image in content["images"]:
    rows[image["id"]] = {
      "image": raw.file(f"{split}2017/{image['file_name']}"),
      "image_id": image["id"],
      "height": image["height"],
      "width": image["width"],
      **{column: [] for column in ("boxes", "labels", "areas", "crowd")},
    }
  for annotation in content["annotations"]:
    try:
      row = rows[annotation["image_id"]]
      height, width = row["height"], row["width"]
      x, y, w, h = annotation["bbox"]
      box = np.array([y / height, x / width, (y + h) / height, (x + w) / width], np.float32)
      label = names[annotation["category_id"]]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as e:
      raise errors.DataError(
        f"{name}: annotation {annotation.get('id')} is not as expected: {type(e).__name__}: {e}."
      ) from None
    row["boxes"].append(box.clip(0, 1))
    row["labels"].append(label)
    row["areas"].append(annotation["area"])
    row["crowd"].append(annotation["iscrowd"])
  return list(rows.values())


DATASETS = (
  build.Dataset(
    name="coco_detection",
    homepage="https://cocodataset.org/#download",
    files=(
      "annotations/instances_{train,val}2017.json, of annotations_trainval2017.zip",
      "train2017/, val2017/: the images, or train2017.zip and val2017.zip",
    ),
    features=features,
    splits=splits,
  ),
)
