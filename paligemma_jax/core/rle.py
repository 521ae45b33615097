"""Masks as COCO stores them, polygons and run lengths, without pycocotools and equal to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors

_SCALE = 5  # COCO draws the edges of polygons on a grid five times as fine.
_MAX_PIXELS = 50_000_000
_MAX_POINTS = 100_000


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
  """bool[height, width] of a `segmentation` of COCO's format.

  Args:
    segmentation: polygons [[x, y, x, y, …], …] in pixels, of which the union is meant, or
      {"size": [height, width], "counts": …} with the run lengths as a list or as a text.
    height, width: of the image.

  Raises:
    DataError: anything else, or run lengths of an image of another size.
  """
  if height * width > _MAX_PIXELS:
    raise errors.DataError(f"a mask of {height} x {width} pixels, more than {_MAX_PIXELS}.")
  if isinstance(segmentation, dict):
    return _from_runs(segmentation, height, width)
  if isinstance(segmentation, (list, tuple)) and segmentation:
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
      mask |= fill_polygon(polygon, height, width)
    return mask
  raise errors.DataError(f"expected polygons or run lengths, found {str(segmentation)[:60]!r}.")


def fill_polygon(points: Sequence[float], height: int, width: int) -> np.ndarray:
  """bool[height, width]: the inside of x, y, x, y, … in pixels.

  As COCO's own tools draw it: edges are traced on a finer grid; where a trace steps from column to
  column it toggles the pixels below it, so that what lies between two edges is set.
  """
  corners = _corners(points)
  fine = np.trunc(corners * _SCALE + 0.5).astype(np.int64)  # [P, 2]: x, y; cut as C casts.
  trace = np.concatenate([_line(*pair) for pair in zip(fine, np.roll(fine, -1, 0), strict=True)])
  before, after = trace[:-1], trace[1:]
  steps = before[:, 0] != after[:, 0]
  before, after = before[steps], after[steps]
  backwards = after[:, 0] < before[:, 0]
  x = (np.where(backwards, after[:, 0], after[:, 0] - 1) + 0.5) / _SCALE - 0.5
  on_grid = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
  y = (np.minimum(before[:, 1], after[:, 1]) + 0.5) / _SCALE - 0.5
  y = np.ceil(np.clip(y, 0, height))
  starts = (x[on_grid] * height + y[on_grid]).astype(np.int64)
  toggles = np.bincount(starts, minlength=height * width + 1)[: height * width]
  return (np.cumsum(toggles) % 2 == 1).reshape(width, height).T


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
  """int64[N, 2]: grid points from one corner to the next, one per step along the longer side."""
  (xs, ys), (xe, ye) = start.tolist(), end.tolist()
  dx, dy = abs(xe - xs), abs(ye - ys)
  flip = xs > xe if dx >= dy else ys > ye
  if flip:
    xs, xe, ys, ye = xe, xs, ye, ys
  steps = np.arange(max(dx, dy) + 1)
  if flip:
    steps = steps[::-1]
  # Cut towards zero after a half was added, as above.
  if dx >= dy:
    slope = (ye - ys) / dx if dx else 0.0
    return np.stack([steps + xs, np.trunc(ys + slope * steps + 0.5).astype(np.int64)], axis=1)
  slope = (xe - xs) / dy
  return np.stack([np.trunc(xs + slope * steps + 0.5).astype(np.int64), steps + ys], axis=1)


def _corners(points: Any) -> np.ndarray:
  """float64[P, 2] of a flat list, checked."""
  try:
    flat = np.array(points, np.float64)
  except (TypeError, ValueError, OverflowError):
    flat = np.zeros(0)
  if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or flat.size > 2 * _MAX_POINTS:
    raise errors.DataError(
        f"expected a polygon [x, y, x, y, …] of at least three points, found {str(points)[:60]!r}."
    )
  if not (np.abs(flat) < 1e6).all():
    raise errors.DataError("a polygon with a coordinate that is no number of pixels.")
  return flat.reshape(-1, 2)


def _from_runs(value: dict[str, Any], height: int, width: int) -> np.ndarray:
  counts, size = value.get("counts"), value.get("size")
  if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
    raise errors.DataError(f"run lengths of the size {size!r}; the image has {[height, width]}.")
  runs = _packed(counts) if isinstance(counts, (str, bytes)) else counts
  good = isinstance(runs, list) and all(type(n) is int and n >= 0 for n in runs)
  if not good or sum(runs) != height * width:
    raise errors.DataError(
        f"run lengths that are no counts which add up to {height} x {width} pixels."
    )
  values = np.arange(len(runs)) % 2 == 1  # The first run is outside.
  return np.repeat(values, runs).reshape(width, height).T  # Column after column.


def _packed(text: str | bytes) -> list[int]:
  """The run lengths in a text: 5 bits a character, and from the third on what changed since the
  run two before.
  """
  data = text.encode("ascii", "replace") if isinstance(text, str) else text
  runs: list[int] = []
  value = shift = 0
  for byte in data:
    digit = byte - 48
    if not 0 <= digit < 64 or shift > 30:
      raise errors.DataError("run lengths with a character that is none of COCO's.")
    value |= (digit & 31) << shift
    shift += 5
    if not digit & 32:
      if digit & 16:
        value -= 1 << shift
      runs.append(value + (runs[-2] if len(runs) > 2 else 0))
      value = shift = 0
  if shift:
    raise errors.DataError("run lengths that break off.")
  return runs
