"""MaRVL: NLVR2's task in five languages, on images from where these are spoken. Test only."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from . import build
from . import raw as raw_lib

LANGUAGES = ("id", "sw", "ta", "tr", "zh")


def features() -> dict[str, Any]:
  """The columns, a superset of NLVR2's."""
  return {
    "image_left": tfds.features.Image(),
    "image_right": tfds.features.Image(),
    "question_id": tfds.features.Text(),
    "sentence": tfds.features.Text(),
    "label": tfds.features.Text(),  # True or False.
    "language": tfds.features.Text(),
    "concept": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """test_id, test_sw, test_ta, test_tr, test_zh."""
  return {f"test_{language}": _records(raw, language) for language in LANGUAGES}


def _records(raw: raw_lib.Raw, language: str) -> list[build.Record]:
  name = f"marvl-{language}.jsonl"
  rows = raw.jsonl(name, f"annotations/{name}", f"zero_shot/annotations/{name}")
  # The annotation may spell a folder's name with other code points: é or e + ´.
  files = {
    unicodedata.normalize("NFC", name): name
    for folder in (f"{language}/images", f"images/{language}/images")
    for name in raw.names(folder)
  }

  def find(row: Mapping[str, Any], side: str) -> raw_lib.RawFile:
    path = f"{language}/images/{row['concept']}/{row[side]}"
    plain = unicodedata.normalize("NFC", path)
    return raw.file(files.get(plain) or files.get(f"images/{plain}") or path)

  return [
    {
      "image_left": find(row, "left_img"),
      "image_right": find(row, "right_img"),
      "question_id": f"{language}-{row['id']}",
      "sentence": row["caption"],
      "label": str(row["label"]),
      "language": language,
      "concept": row["concept"],
    }
    for row in rows
  ]


DATASETS = (
  build.Dataset(
    name="marvl",
    homepage="https://marvl-challenge.github.io/download",
    files=(
      "marvl-id.jsonl, …, marvl-zh.jsonl (of zero_shot/annotations)",
      "id/images/CONCEPT/….jpg, … for id, sw, ta, tr and zh (unpacked from the archive of images)",
    ),
    features=features,
    splits=splits,
  ),
)
