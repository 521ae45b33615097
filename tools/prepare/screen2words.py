"""Screen2Words: screens of Android apps (RICO), five summaries each."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, dev and test: the site's splits."""
  captions: dict[int, list[str]] = {}
  for row in raw.csv("screen_summaries.csv", "screen2words/screen_summaries.csv"):
    captions.setdefault(int(row["screenId"]), []).append(row["summary"])
  return {split: _records(raw, split, captions) for split in ("train", "dev", "test")}


def _records(raw: raw_lib.Raw, split: str, captions: dict[int, list[str]]) -> list[build.Record]:
  name = f"split/{split}_screens.txt"
  ids = [int(line) for line in raw.file(name, f"screen2words/{name}").read().split()]
  missing = [i for i in ids if i not in captions]
  if missing:
    raise errors.DataError(f"screen_summaries.csv has no summary of screen {missing[0]} ({split}).")
  return [
    {"image": raw.file(f"combined/{i}.jpg"), "image_id": i, "captions": captions[i]} for i in ids
  ]


DATASETS = (
  build.Dataset(
    name="screen2words",
    homepage="https://github.com/google-research-datasets/screen2words",
    files=(
      "screen_summaries.csv, split/train_screens.txt, split/dev_screens.txt,"
      " split/test_screens.txt (or the repository as screen2words/)",
      "combined/0.jpg, … (unpacked from unique_uis.tar.gz, 'UI Screenshots and View"
      " Hierarchies' at http://www.interactionmining.org/rico)",
    ),
    features=features,
    splits=splits,
  ),
)
