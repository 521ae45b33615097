"""SciCap: figures of arXiv papers with their captions; first sentences, figures without subfigures.

The download has one JSON for each figure, and a list of figures for each experiment. This is the
experiment 'First-Sentence/No-Subfig', which papers report.
"""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_LISTS = "List-of-Files-for-Each-Experiments/First-Sentence/No-Subfig"
_CLEANED = "1-lowercase-and-token-and-remove-figure-index"


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "paper_id": tfds.features.Text(),
    # Lower case, without 'figure 1:'; the target.
    "caption": tfds.features.Text(),
    "caption_original": tfds.features.Text(),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, val and test of the experiment."""
  return {split: _records(raw, split) for split in ("train", "val", "test")}


def _records(raw: raw_lib.Raw, split: str) -> list[build.Record]:
  names = _json(raw, f"{_LISTS}/{split}/file_idx.json")
  return [_record(raw, split, name) for name in names]


def _record(raw: raw_lib.Raw, split: str, name: str) -> build.Record:
  image_id = name.removesuffix(".png")
  path = f"SciCap-Caption-All/{split}/{image_id}.json"
  figure = _json(raw, path)
  try:
    return {
      "image": raw.file(*_places(f"SciCap-No-Subfig-Img/{split}/{name}")),
      "image_id": image_id,
      "paper_id": figure.get("paper-ID", ""),
      "caption": figure[_CLEANED]["caption"],
      "caption_original": figure["0-originally-extracted"],
    }
  except (KeyError, TypeError, AttributeError) as e:
    raise errors.DataError(f"{path} is not as the site has it: {type(e).__name__}: {e}") from None


def _json(raw: raw_lib.Raw, name: str) -> Any:
  return raw.json(*_places(name))


def _places(name: str) -> tuple[str, str]:
  """The path in the zip file's folder, or without it."""
  return f"scicap_data/{name}", name


DATASETS = (
  build.Dataset(
    name="scicap",
    homepage="https://github.com/tingyaohsu/SciCap",
    files=("scicap_data.zip (linked as 'the dataset' on the page)",),
    features=features,
    splits=splits,
  ),
)
