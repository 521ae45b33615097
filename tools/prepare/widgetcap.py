"""Widget Captioning: widgets of Android screens (RICO) with descriptions by people.

A row has the whole screen and the box of the widget, which `pp.DrawBox` draws after the resize.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

# RICO's bounds are on a canvas of this height, for any image; x has the same scale.
_CANVAS_HEIGHT = 2560


class Box(raw_lib.RawFile):
  """The box of a node of a screen's view hierarchy, found when its row is written.

  Attributes:
    file: the hierarchy.
    image: the screen.
    node_id: the path from the root: '0.2.1' is child 1 of its child 2.
  """

  def __init__(self, file: raw_lib.RawFile, image: raw_lib.RawFile, node_id: str):
    super().__init__(file.name, file._path, file._member)
    self._image, self._node_id = image, node_id

  def read(self) -> np.ndarray:  # type: ignore[override]
    """float32[4]: y_min, x_min, y_max, x_max as fractions of the image.

    Raises:
      DataError: no such node, or a damaged file.
    """
    try:
      node = json.loads(super().read())["activity"]["root"]
      for index in self._node_id.split(".")[1:]:
        node = node["children"][int(index)]
      left, top, right, bottom = (float(v) for v in node["bounds"])
      with PIL.Image.open(io.BytesIO(self._image.read())) as image:
        width, height = image.size
    except (KeyError, IndexError, TypeError, ValueError, OSError) as e:
      raise errors.DataError(
        f"{self}: no bounds of node {self._node_id!r}: {type(e).__name__}: {e}"
      ) from None
    x_scale = height / _CANVAS_HEIGHT / width
    box = (top / _CANVAS_HEIGHT, left * x_scale, bottom / _CANVAS_HEIGHT, right * x_scale)
    return np.array(box, np.float32)

  def __repr__(self) -> str:
    return f"Box({self.name!r}, {self._node_id!r})"


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),  # Of the widget: screen and node.
    "screen_id": tfds.features.Text(),
    "node_id": tfds.features.Text(),
    "bbox": tfds.features.Tensor(shape=(4,), dtype=np.float32),
    "captions": tfds.features.Sequence(tfds.features.Text()),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, dev and test: the site's splits, by screens."""
  rows = raw.csv("widget_captions.csv", "widget-caption/widget_captions.csv")
  made = {}
  for split in ("train", "dev", "test"):
    name = f"split/{split}.txt"
    screens = set(raw.file(name, f"widget-caption/{name}").read().decode().split())
    made[split] = [_record(raw, row) for row in rows if row["screenId"] in screens]
  return made


def _record(raw: raw_lib.Raw, row: dict[str, str]) -> build.Record:
  screen, node = row["screenId"], row["nodeId"]
  image = raw.file(f"combined/{screen}.jpg")
  return {
    "image": image,
    "image_id": f"{screen}_{node}",
    "screen_id": screen,
    "node_id": node,
    "bbox": Box(raw.file(f"combined/{screen}.json"), image, node),
    "captions": row["captions"].split("|"),
  }


DATASETS = (
  build.Dataset(
    name="widgetcap",
    homepage="https://github.com/google-research-datasets/widget-caption",
    files=(
      "widget_captions.csv, split/train.txt, split/dev.txt, split/test.txt (or the repository"
      " as widget-caption/)",
      "combined/0.jpg, combined/0.json, … (unpacked from unique_uis.tar.gz, 'UI Screenshots"
      " and View Hierarchies' at http://www.interactionmining.org/rico)",
    ),
    features=features,
    splits=splits,
  ),
)
