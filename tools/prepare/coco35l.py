"""COCO-35L: COCO's captions, translated by machine from English into 34 languages.

A row is an image with a column of captions for each language, `captions_de` and so on; a row per
language, as in the reference, would store each image 35 times. The texts of train take about 4 GB
of memory during the build.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import cococap
from . import raw as raw_lib

# The languages of the translations.
TRANSLATED = (
  "ar bn cs da de el es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt ro ru sv sw te th tr"
  " uk vi zh"
).split()
_FILES = {"train": "coco_mt_train.jsonl", "dev": "coco_mt_dev.jsonl"}


def features() -> dict[str, Any]:
  """The columns. All texts have blanks between words, in every script."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    **{
      f"captions_{language}": tfds.features.Sequence(tfds.features.Text())
      for language in ("en", *TRANSLATED)
    },
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train and dev."""
  files = {
    image["cocoid"]: f"{image['filepath']}/{image['filename']}"
    for image in raw.json(*cococap.KARPATHY, without=("sentences", "sentids"))["images"]
  }
  return {split: _records(raw, name, files) for split, name in _FILES.items()}


def _records(raw: raw_lib.Raw, name: str, files: dict[int, str]) -> list[build.Record]:
  texts: dict[int, dict[str, list[str]]] = {}
  for line in raw.jsonl_lines(name, f"{name}.bz2"):
    image_id = int(line["image_id"].split("_")[0])  # The rest is the caption's number.
    if image_id not in files:
      raise errors.DataError(f"{name}: image {image_id} is not in dataset_coco.json.")
    of_image = texts.setdefault(image_id, {})
    language = line["trg_lang"]
    of_image.setdefault(f"captions_{language}", []).append(line["translation_tokenized"])
    if language == "de":  # Every translation repeats the English caption.
      of_image.setdefault("captions_en", []).append(line["caption_tokenized"])
  columns = [f"captions_{language}" for language in ("en", *TRANSLATED)]
  return [
    {
      "image": raw.file(files[image_id]),
      "image_id": image_id,
      **{column: of_image.get(column, []) for column in columns},
    }
    for image_id, of_image in texts.items()
  ]


DATASETS = (
  build.Dataset(
    name="coco35l",
    homepage="https://google.github.io/crossmodal-3600/",
    files=(
      "coco_mt_train.jsonl.bz2, coco_mt_dev.jsonl.bz2",
      "caption_datasets.zip, or dataset_coco.json out of it"
      " (http://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip)",
      "train2014.zip, val2014.zip (images, https://cocodataset.org/#download)",
    ),
    features=features,
    splits=splits,
  ),
)
