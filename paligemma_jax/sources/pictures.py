"""Rows of annotated pictures: the columns that Coco, Yolo and Voc have in common.

    image       bytes of the file            image_path   relative to the folder of images
    image_id    the format's own             height, width   in pixels, as stored (EXIF not applied)
    boxes       [(y_min, x_min, y_max, x_max), …] as shares of the picture
    labels      [text, …]                    areas        [square pixels, …]
    crowd       [bool, …]: what evaluation is to skip (COCO's crowds, VOC's difficult objects)
    masks       [bool[height, width], …], where they are asked for
"""

from __future__ import annotations

import io
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from paligemma_jax.core import complete
from paligemma_jax.core import errors

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # What `pp.Decode` reads.
MAX_MASK_PIXELS = 256_000_000  # Of all masks of a row; one byte each.

COLUMNS = (
    "image", "image_path", "image_id", "height", "width", "boxes", "labels", "areas", "crowd"
)  # fmt: skip
_TOO_LARGE = 1e15
_OUTSIDE = 1.0  # Pixels that a box may stick out without a word: annotation tools round.


class Thing(NamedTuple):
  """One object of a picture.

  label: its class.
  box: (x_min, y_min, x_max, y_max) in pixels; what sticks out of the picture is cut off.
  area: in square pixels; 0 takes the box's.
  crowd: see above.
  mask: makes bool[height, width]; None where the data has none.
  """

  label: str
  box: tuple[float, float, float, float]
  area: float = 0.0
  crowd: bool = False
  mask: Callable[[], np.ndarray] | None = None


def names(masks: bool) -> tuple[str, ...]:
  """The columns of a row."""
  return (*COLUMNS, "masks") if masks else COLUMNS


def row(
    image: bytes,
    path: str,
    image_id: Any,
    size: tuple[int, int],
    things: Sequence[Thing],
    *,
    masks: bool,
) -> dict[str, Any]:
  """The row; `size` is (height, width).

  Raises:
    DataError: a box that is none or lies outside of the picture, no mask where one is asked for, or
      masks of more than MAX_MASK_PIXELS.
  """
  if masks and len(things) * size[0] * size[1] > MAX_MASK_PIXELS:
    raise errors.DataError(
        f"{len(things)} masks of {size[1]} x {size[0]} pixels; a row may have {MAX_MASK_PIXELS}"
        " pixels of masks in all. Make the picture smaller, or set masks=False."
    )
  clipped = False
  boxes, areas, found = [], [], []
  for n, thing in enumerate(things, 1):
    try:
      inside, cut = _inside(thing.box, *size)
      clipped |= cut
      y_min, x_min, y_max, x_max = inside
      boxes.append((y_min / size[0], x_min / size[1], y_max / size[0], x_max / size[1]))
      areas.append(float(thing.area or (y_max - y_min) * (x_max - x_min)))
      if masks:
        found.append(_mask(thing, size))
    except errors.DataError as e:
      raise errors.DataError(f"object {n} ({thing.label!r}): {e}") from None
  out = {
      "image": image,
      "image_path": path,
      "image_id": image_id,
      "height": size[0],
      "width": size[1],
      "boxes": boxes,
      "labels": [thing.label for thing in things],
      "areas": areas,
      "crowd": [thing.crowd for thing in things],
  }
  if masks:
    out["masks"] = found
  if clipped:
    out["_notes"] = ("boxes_clipped",)
  return out


def size_of(image: bytes) -> tuple[int, int]:
  """(height, width) of an image file, from its header.

  Raises:
    DataError: no image of a format in FORMATS, or a damaged one.
  """
  from PIL import Image  # Here, so that configs need not wait for it.

  complete.check(image)
  try:
    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
      return opened.height, opened.width
  except MemoryError:
    raise
  except Exception as e:  # Whatever Pillow's readers raise on damaged files: many types.
    raise errors.DataError(f"the image cannot be read: {type(e).__name__}: {e}.") from None


def number(value: Any, what: str) -> float:
  """A finite number; DataError for anything else."""
  # The comparison is false of NaN, and holds for whole numbers that no float can.
  if type(value) not in (int, float) or not abs(value) < _TOO_LARGE:
    raise errors.DataError(f"{what} is {str(value)[:60]!r}; expected a number.")
  return float(value)


def _inside(
    box: tuple[float, ...], height: int, width: int
) -> tuple[tuple[float, float, float, float], bool]:
  """(y_min, x_min, y_max, x_max) within the picture, and whether that took more than rounding."""
  x_min, y_min, x_max, y_max = box
  if not (x_min <= x_max and y_min <= y_max):  # NaN too.
    raise errors.DataError(f"the box {box} has a minimum above its maximum.")
  if x_max < 0 or y_max < 0 or x_min > width or y_min > height:
    raise errors.DataError(f"the box {box} lies outside of the picture, {width} x {height}.")
  cut = min(x_min, y_min) < -_OUTSIDE or x_max > width + _OUTSIDE or y_max > height + _OUTSIDE
  clipped = max(y_min, 0.0), max(x_min, 0.0), min(y_max, height), min(x_max, width)
  return clipped, cut


def _mask(thing: Thing, size: tuple[int, int]) -> np.ndarray:
  if thing.mask is None:
    raise errors.DataError("has no mask; set masks=False, or leave such pictures out.")
  mask = thing.mask()
  if mask.shape != size:
    raise errors.DataError(f"its mask is {list(mask.shape)}, the picture {list(size)}.")
  return mask
