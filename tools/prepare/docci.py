"""DOCCI: photographs with one long, complete description each."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

# The two small ones are for visual inspection.
_SPLITS = ("train", "test", "qual_dev", "qual_test")


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "caption": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, test, qual_dev and qual_test: the file's splits."""
  found: dict[str, list[build.Record]] = {split: [] for split in _SPLITS}
  for line in raw.jsonl_lines("docci_descriptions.jsonlines"):
    if line["split"] not in found:
      raise errors.DataError(
        f"docci_descriptions.jsonlines has a split {line['split']!r}; expected"
        f" {', '.join(_SPLITS)}."
      )
    found[line["split"]].append(
      {
        "image": raw.file(f"images/{line['image_file']}", line["image_file"]),
        "image_id": line["example_id"],
        "caption": line["description"].strip(),
      }
    )
  return found


DATASETS = (
  build.Dataset(
    name="docci",
    homepage="https://google.github.io/docci/#downloads",
    files=(
      "docci_descriptions.jsonlines",
      "images/train_00000.jpg, … (unpacked from docci_images.tar.gz)",
    ),
    features=features,
    splits=splits,
  ),
)
