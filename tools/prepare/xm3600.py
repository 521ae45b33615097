"""Crossmodal-3600: images from where 36 languages are spoken; captions by native speakers."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

LANGUAGES = (
  "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te"
  " th tr uk vi zh"
).split()


def features() -> dict[str, Any]:
  """The columns: captions with blanks between words, as in COCO-35L, and the originals."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "locale": tfds.features.Text(),
    **{
      f"{column}_{language}": tfds.features.Sequence(tfds.features.Text())
      for language in LANGUAGES
      for column in ("captions", "written")
    },
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """test, the only split."""
  records = []
  for line in raw.jsonl_lines("captions.jsonl", "captions/captions.jsonl"):
    key = line["image/key"]
    record = {
      "image": raw.file(f"images/{key}.jpg", f"{key}.jpg"),
      "image_id": key,
      "locale": line["image/locale"],
    }
    for language in LANGUAGES:
      record[f"captions_{language}"] = line[language]["caption/tokenized"]
      record[f"written_{language}"] = line[language]["caption"]
    records.append(record)
  return {"test": records}


DATASETS = (
  build.Dataset(
    name="xm3600",
    homepage="https://google.github.io/crossmodal-3600/",
    files=(
      "captions.zip, or captions.jsonl out of it",
      "images/….jpg (unpacked from images.tgz)",
    ),
    features=features,
    splits=splits,
  ),
)
