"""Boxes as the model writes them, `<loc0123><loc0045><loc0678><loc0900> cat ; …`, and back.

The four tokens are y_min, x_min, y_max, x_max. Two conventions for coordinates are in use, half a
bin apart, and callers always name one:

  bins=1023: token round(1023 v), read as token / 1023 (the reference's data and its metrics);
  bins=1024: token round(1024 v) but at most 1023, read as token / 1024 (the published demos).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from paligemma_jax.core import errors

NUM_TOKENS = 1024
SEPARATOR = " ; "

_EDGE_SLACK = 1e-6  # Coordinates this far outside of [0, 1] are rounding errors.
_OBJECT = re.compile(r"\s*" + r"<loc([0-9]{4})>" * 4 + r"(.*)", re.DOTALL)


class Box(NamedTuple):
  """A box as shares of the image's height and width, each in [0, 1]."""

  y_min: float
  x_min: float
  y_max: float
  x_max: float


class Parsed(NamedTuple):
  """The readable objects of a text, in order, and the number of other parts."""

  boxes: tuple[Box, ...]
  labels: tuple[str, ...]
  num_invalid: int


def to_token(value: float, *, bins: int) -> int:
  """The loc number, 0 to 1023, of a coordinate, which is clipped to [0, 1].

  A half is rounded to the even number, as in the reference.
  """
  return min(round(bins * min(max(value, 0.0), 1.0)), NUM_TOKENS - 1)


def from_token(token: int, *, bins: int) -> float:
  """The coordinate that a loc number, 0 to 1023, stands for."""
  return token / bins


def format_boxes(boxes: Sequence[Sequence[float]], labels: Sequence[str], *, bins: int) -> str:
  """The text of these objects in order: four loc tokens, a space, the label.

  Args:
    boxes: (y_min, x_min, y_max, x_max) each, as shares of the image's height and width.
    labels: one per box; '' for the tokens alone.
    bins: 1023 or 1024, the convention (see above).

  Raises:
    DataError: a box that is not in the image or inverted, or a label that cannot be parsed again.
  """
  check_bins(bins)
  if len(boxes) != len(labels):
    raise errors.DataError(f"{len(boxes)} boxes but {len(labels)} labels; each box needs one.")
  parts = []
  for box, label in zip(boxes, labels, strict=True):
    y_min, x_min, y_max, x_max = checked(box)
    if not isinstance(label, str) or ";" in label or "<loc" in label:
      raise errors.DataError(f"The label {label!r} must be text without ';' and '<loc'.")
    tokens = "".join(f"<loc{to_token(v, bins=bins):04d}>" for v in (y_min, x_min, y_max, x_max))
    parts.append(f"{tokens} {label.strip()}".rstrip())
  return SEPARATOR.join(parts)


def parse_boxes(text: str, *, bins: int) -> Parsed:
  """The objects of any text, separated by ';'.

  A part is invalid, and counted, when it does not start with four loc tokens from 0 to 1023, when a
  minimum is above its maximum, or when more loc tokens follow. A minimum may equal its maximum: so
  does a box thinner than one bin.
  """
  check_bins(bins)
  boxes, labels, num_invalid = [], [], 0
  parts = text.split(";") if text.strip() else []
  for part in parts:
    match = _OBJECT.fullmatch(part)
    numbers = [int(n) for n in match.groups()[:4]] if match else []
    if not match or max(numbers) >= NUM_TOKENS or "<loc" in match[5]:
      num_invalid += 1
      continue
    box = Box(*(from_token(n, bins=bins) for n in numbers))
    if box.y_min > box.y_max or box.x_min > box.x_max:
      num_invalid += 1
      continue
    boxes.append(box)
    labels.append(match[5].strip())
  return Parsed(tuple(boxes), tuple(labels), num_invalid)


def checked(box: Sequence[float]) -> Box:
  """The box as floats; a DataError when it is outside the image, inverted, or no four numbers."""
  try:
    values = Box(*(float(v) for v in box))
  except (TypeError, ValueError):
    raise errors.DataError(
      f"The box {box!r} must be four numbers: y_min, x_min, y_max, x_max."
    ) from None
  inside = all(math.isfinite(v) and -_EDGE_SLACK <= v <= 1 + _EDGE_SLACK for v in values)
  if not inside or values.y_min > values.y_max or values.x_min > values.x_max:
    raise errors.DataError(
      f"The box {tuple(values)} must be (y_min, x_min, y_max, x_max) with minima below maxima,"
      " as shares of the image's height and width from 0 to 1."
    )
  return values


def check_bins(bins: int) -> None:
  """Raises a ConfigError unless `bins` is one of the two conventions."""
  if bins not in (1023, 1024):
    raise errors.ConfigError(f"bins is {bins!r}; the two conventions are 1023 and 1024.")
