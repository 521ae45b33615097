"""Decodes COCO's masks, polygons and run lengths, exactly as pycocotools does."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import file_checks

MAX_WORK = 1_000_000_000  # Of all masks of a row: about two seconds.

_SCALE = 5  # COCO draws polygons on a grid five times as fine.
_MAX_PIXELS = 50_000_000
_MAX_POINTS = 100_000
_MAX_RUNS = 5_000_000
_POLYGON_WORK = 75_000  # The time of a polygon, however small, in pixels.
_STEP_WORK = 20  # The time of a step of an outline, or of a run, in pixels.
_STEPS_AT_ONCE = 1 << 20


class Budget:
  """The work left, in pixels, to draw the masks of one row."""

  def __init__(self, work: int = MAX_WORK):
    self._left = work

  def spend(self, work: int) -> None:
    """Takes from the budget; DataError when it is used up."""
    self._left -= work
    if self._left < 0:
      raise errors.DataError(
        "the outlines or run lengths of the row take far longer to draw than any image's:"
        " damaged or hostile."
      )


def decode(segmentation: Any, height: int, width: int, budget: Budget | None = None) -> np.ndarray:
  """bool[height, width] of a `segmentation` of COCO's format.

  Args:
    segmentation: polygons [[x, y, x, y, …], …] in pixels, whose union is the mask, or
      {"size": [height, width], "counts": …} with the run lengths as a list or as a text.
    height, width: of the image.
    budget: shared by the masks of a row; None is a new one.

  Raises:
    DataError: anything else, run lengths of an image of another size, or more than the budget.
  """
  budget = budget or Budget()
  if height * width > _MAX_PIXELS:
    raise errors.DataError(f"a mask of {height} x {width} pixels, more than {_MAX_PIXELS}.")
  if isinstance(segmentation, dict):
    return _from_runs(segmentation, height, width, budget)
  if isinstance(segmentation, (list, tuple)) and segmentation:
    budget.spend(height * width)
    mask = np.zeros(width * height, bool)  # Column after column.
    for polygon in segmentation:
      _fill(mask, polygon, height, width, budget)
    return mask.reshape(width, height).T
  raise errors.DataError(f"expected polygons or run lengths, found {str(segmentation)[:60]!r}.")


def _fill(mask: np.ndarray, points: Any, height: int, width: int, budget: Budget) -> None:
  """Sets the inside of x, y, x, y, … in `mask`, bool[width * height].

  It draws as COCO's tools do: edges are traced on a finer grid, and each step from one column to
  another toggles the pixels below it, so that those between two edges are set.
  """
  corners = _corners(points)
  start = np.trunc(corners * _SCALE + 0.5).astype(np.int64)  # [P, 2]: x, y; truncated as C does.
  end = np.roll(start, -1, 0)
  lengths = np.abs(end - start).max(axis=1) + 1
  budget.spend(int(lengths.sum()) * _STEP_WORK + _POLYGON_WORK)
  toggles = []
  last = start[:1]
  ends = np.cumsum(lengths)
  first = 0
  while first < len(start):  # In parts, since a long outline would take gigabytes at once.
    stop = int(np.searchsorted(ends, ends[first] - lengths[first] + _STEPS_AT_ONCE, "right"))
    stop = max(stop, first + 1)
    trace = np.concatenate([last, _traced(start[first:stop], end[first:stop], lengths[first:stop])])
    toggles.append(_toggled(trace, height, width))
    last, first = trace[-1:], stop
  places = np.sort(np.concatenate(toggles))
  places = places[places < height * width]
  if len(places) % 2:
    places = np.append(places, height * width)
  if not len(places):
    return
  budget.spend(int(places[-1] - places[0]))
  runs = np.diff(places)
  inside = np.arange(len(runs)) % 2 == 0
  mask[places[0] : places[-1]] |= np.repeat(inside, runs)


def _traced(start: np.ndarray, end: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """int64[N, 2]: grid points from each corner to the next, one per step along the longer side."""
  delta = np.abs(end - start)
  flat = delta[:, 0] >= delta[:, 1]  # Steps go along x.
  along, across = np.where(flat, 0, 1), np.where(flat, 1, 0)
  edges = np.arange(len(start))
  flip = start[edges, along] > end[edges, along]
  low = np.where(flip[:, None], end, start)
  high = np.where(flip[:, None], start, end)
  run = delta[edges, along]
  slope = (high[edges, across] - low[edges, across]) / np.maximum(run, 1)
  edge = np.repeat(edges, lengths)
  step = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  step = np.where(flip[edge], lengths[edge] - 1 - step, step)
  # Truncated after a half is added, as above.
  slow = np.trunc(low[edges, across][edge] + slope[edge] * step + 0.5).astype(np.int64)
  fast = step + low[edges, along][edge]
  return np.where(flat[edge][:, None], np.stack([fast, slow], 1), np.stack([slow, fast], 1))


def _toggled(trace: np.ndarray, height: int, width: int) -> np.ndarray:
  """int64[K]: the places, in column order, below which a trace toggles the pixels."""
  before, after = trace[:-1], trace[1:]
  steps = before[:, 0] != after[:, 0]
  before, after = before[steps], after[steps]
  backwards = after[:, 0] < before[:, 0]
  x = (np.where(backwards, after[:, 0], after[:, 0] - 1) + 0.5) / _SCALE - 0.5
  on_grid = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
  y = (np.minimum(before[:, 1], after[:, 1]) + 0.5) / _SCALE - 0.5
  y = np.ceil(np.clip(y, 0, height))
  return (x[on_grid] * height + y[on_grid]).astype(np.int64)


def _corners(points: Any) -> np.ndarray:
  """float64[P, 2] of a flat list, checked."""
  try:
    flat = np.array(points, np.float64)
    if any(isinstance(v, bool) for v in points):  # numpy takes them for 0 and 1.
      flat = flat[:0]
  except (TypeError, ValueError, OverflowError):
    flat = np.zeros(0)
  if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or flat.size > 2 * _MAX_POINTS:
    raise errors.DataError(
      f"expected a polygon [x, y, x, y, …] of at least three points, found {str(points)[:60]!r}."
    )
  if not (np.abs(flat) < 1e6).all():
    raise errors.DataError("a polygon with a coordinate that is no number of pixels.")
  return flat.reshape(-1, 2)


def _from_runs(value: dict[str, Any], height: int, width: int, budget: Budget) -> np.ndarray:
  counts, size = value.get("counts"), value.get("size")
  if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
    raise errors.DataError(f"run lengths of the size {size!r}; the image has {[height, width]}.")
  if isinstance(counts, (str, bytes, list)):
    if len(counts) > min(_MAX_RUNS, 8 * (height * width + 1)):
      raise errors.DataError(f"{len(counts)} run lengths for {height} x {width} pixels.")
    budget.spend(len(counts) * _STEP_WORK + height * width)
  runs = _packed(counts) if isinstance(counts, (str, bytes)) else counts
  if (
    not isinstance(runs, list)
    or not all(type(n) is int and n >= 0 for n in runs)
    or sum(runs) != height * width
  ):
    raise errors.DataError(
      f"run lengths that are no counts, or do not add up to {height} x {width} pixels."
    )
  values = np.arange(len(runs)) % 2 == 1  # The first run is outside.
  return np.repeat(values, runs).reshape(width, height).T  # Column after column.


def _packed(text: str | bytes) -> list[int]:
  """Run lengths of a text: 5 bits a character, from the third run on relative to two before."""
  # In UTF-8 no other character becomes one of COCO's, as it would when replaced by "?".
  data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
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
    raise errors.DataError("run lengths that are cut short.")
  return runs


def png_pixels(data: bytes) -> np.ndarray:
  """[H, W] or [H, W, C]: the values in a PNG file, of a palette the indices.

  Raises:
    DataError: no intact PNG file, or one that is too large.
  """
  from PIL import Image  # Here, so that configs load fast.

  try:
    file_checks.check(data)
    with Image.open(io.BytesIO(file_checks.without_texts(data)), formats=("PNG",)) as image:
      if image.width * image.height > _MAX_PIXELS:
        raise errors.DataError(f"it has more than {_MAX_PIXELS} pixels.")
      found = np.asarray(image)
    if not file_checks.png_holds_all_rows(data):
      raise errors.DataError("its data end before the last row.")
    return found
  except errors.DataError as e:
    raise errors.DataError(f"no intact PNG: {e}") from None
  except MemoryError:
    raise
  except Exception as e:  # Pillow's reader raises many types on damaged files.
    raise errors.DataError(f"no intact PNG: {type(e).__name__}: {e}.") from None
