"""Segmentations as the model writes them, and back: four `<loc…>`, sixteen `<seg…>`, a label.

The loc tokens are the object's box as in `regions.loc`. The seg tokens are the codes of the mask
inside the box, row by row, as `regions.mask_codec` makes them. The rules are those of the
reference's op refcoco_mask2str and of its segmentation evaluator, both with bins=1023.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import rle

_LOC_LEN = 4 * len("<loc0000>")
_OBJECT = re.compile(
  r"<loc([0-9]{4})>" * 4 + r"<seg([0-9]{3})>" * mask_codec.NUM_CODES + r"(.*)", re.DOTALL
)


class Segment(NamedTuple):
  """One object of a text: its box, its sixteen codes and its label."""

  box: loc.Box
  codes: tuple[int, ...]
  label: str


class Found(NamedTuple):
  """One decoded object of a text: its mask, bool[H, W], its box and its label."""

  mask: np.ndarray
  box: loc.Box
  label: str


def format_segment(
  box: Sequence[float], codes: Sequence[int], label: str = "", *, bins: int
) -> str:
  """The text of one object, as of `loc.format_boxes`, with sixteen seg tokens for the codes."""
  text = loc.format_boxes([box], [label], bins=bins)
  return text[:_LOC_LEN] + "".join(f"<seg{code:03d}>" for code in codes) + text[_LOC_LEN:]


def masks_to_text(
  masks: Sequence[np.ndarray],
  boxes: Sequence[Sequence[float] | None],
  labels: Sequence[str],
  *,
  codec: mask_codec.MaskCodec,
  bins: int,
  tiny: list[int] | None = None,
) -> str:
  """The text of these objects in the order given, joined by ' ; '.

  The part of the mask inside the box, from round(height * y) and round(width * x), is resized to
  64 x 64 (bilinear, antialiased), scaled to [-1, 1] and encoded.

  Args:
    masks: bool[H, W] each, the size of the whole image.
    boxes, labels, bins: as in `loc.format_boxes`; None is the mask's least box.
    tiny: collects the indices of objects that are too small for a mask and are left out; None: such
      an object is an error.

  Raises:
    DataError: an empty mask, a wrong box or label, a box without a pixel, or only tiny objects.
  """
  if not len(masks) == len(boxes) == len(labels):
    raise errors.DataError(
      f"{len(masks)} masks, {len(boxes)} boxes and {len(labels)} labels; expected equally many."
    )
  used, squares = [], []
  for i, (mask, given, label) in enumerate(zip(masks, boxes, labels, strict=True)):
    try:
      box, part = _boxed(mask, given, label, bins)
    except _TinyError as e:
      if tiny is None or len(masks) == 1:
        raise errors.DataError(f"mask {i + 1} of {len(masks)} ({label!r}): {e}") from None
      tiny.append(i)
      continue
    used.append((box, label))
    squares.append(to_square(part))
  if masks and not used:
    raise errors.DataError(
      f"all {len(masks)} masks are thinner than a pixel or than a loc token can express."
    )
  if not used:
    return ""
  codes = codec.encode(np.stack(squares)).tolist()
  return loc.SEPARATOR.join(
    format_segment(box, row, label, bins=bins)
    for (box, label), row in zip(used, codes, strict=True)
  )


class _TinyError(errors.DataError):
  """An object is too small for a mask."""


def _boxed(
  mask: np.ndarray, given: Sequence[float] | None, label: str, bins: int
) -> tuple[Sequence[float], np.ndarray]:
  """The box of an object, and the mask inside of it."""
  box = least_box(mask) if given is None else given
  text = loc.format_boxes([box], [label], bins=bins)
  (read_back,) = loc.parse_boxes(text, bins=bins).boxes
  sides = zip(box, mask.shape * 2, strict=True)
  y_min, x_min, y_max, x_max = (max(round(side * share), 0) for share, side in sides)
  part = mask[y_min:y_max, x_min:x_max]
  if not part.size or read_back.y_min >= read_back.y_max or read_back.x_min >= read_back.x_max:
    raise _TinyError(
      f"The box {tuple(box)} is thinner than a pixel or than a loc token can express; no mask can"
      " be written for it. Leave the object out."
    )
  if not part.any():
    raise _TinyError(f"The mask has no pixel in its box {tuple(box)}. Leave the object out.")
  return box, part


def text_to_masks(
  text: str, height: int, width: int, *, codec: mask_codec.MaskCodec, bins: int
) -> list[Found | None]:
  """The decoded objects of a text, separated by ';', in an image of this size in pixels.

  None stands for each invalid part.
  """
  segments = [parse(piece.strip(), codec=codec, bins=bins) for piece in text.split(";")]
  codes = [segment.codes for segment in segments if segment]
  squares = iter(codec.decode(np.array(codes)) if codes else np.zeros(0))
  out: list[Found | None] = []
  for segment in segments:
    painted = paint(next(squares), segment.box, height, width) if segment else None
    if segment is None or painted is None:
      out.append(None)
      continue
    y_min, x_min, y_max, x_max = pixel_box(segment.box, height, width)
    mask = np.zeros((height, width), bool)
    mask[y_min:y_max, x_min:x_max] = painted
    out.append(Found(mask, segment.box, segment.label))
  return out


def parse(text: str, *, codec: mask_codec.MaskCodec, bins: int) -> Segment | None:
  """The first object of any text by the reference's rule, or None.

  It starts with four loc tokens, y_max > y_min and x_max > x_min, and sixteen seg tokens; the rest
  is the label.
  """
  loc.check_bins(bins)
  match = _OBJECT.fullmatch(text)
  numbers = [int(n) for n in match.groups()[:-1]] if match else []
  if not match or max(numbers[:4]) >= loc.NUM_TOKENS or max(numbers[4:]) >= len(codec.codebook):
    return None
  if numbers[2] <= numbers[0] or numbers[3] <= numbers[1]:
    return None
  box = loc.Box(*(loc.from_token(n, bins=bins) for n in numbers[:4]))
  return Segment(box, tuple(numbers[4:]), match.groups()[-1].strip())


def pixel_box(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
  """(y_min, x_min, y_max, x_max) in pixels, truncated as in the reference's evaluator."""
  y_min, x_min, y_max, x_max = box
  return int(y_min * height), int(x_min * width), int(y_max * height), int(x_max * width)


def paint(square: np.ndarray, box: Sequence[float], height: int, width: int) -> np.ndarray | None:
  """bool[h, w]: a decoded mask at the size of its pixel box; None when the box has no pixel."""
  y_min, x_min, y_max, x_max = pixel_box(box, height, width)
  if y_max <= y_min or x_max <= x_min:
    return None
  return from_square(square, y_max - y_min, x_max - x_min)


def to_square(mask: np.ndarray) -> np.ndarray:
  """float32[64, 64] in [-1, 1] of bool[h, w]: bilinear, antialiased."""
  shares = _resized(mask.astype(np.float32), mask_codec.SIDE, mask_codec.SIDE)
  return shares * np.float32(2) - np.float32(1)


def from_square(square: np.ndarray, height: int, width: int) -> np.ndarray:
  """bool[height, width]: float32[64, 64] > 0, after the same resize."""
  return _resized(square, height, width) > 0


def least_box(mask: np.ndarray) -> loc.Box:
  """The least box around the mask's pixels; DataError when there are none."""
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  if not len(rows):
    raise _TinyError("The mask has no pixel that is set.")
  height, width = mask.shape
  return loc.Box(
    rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width
  )


def as_mask(value: Any) -> np.ndarray:
  """bool[H, W]: where the first channel of [H, W, C], or [H, W], is above 0.

  A DataError unless these are bytes of a PNG file, or an array of bools or numbers.
  """
  if isinstance(value, bytes):
    try:
      value = rle.png_pixels(value)
    except errors.DataError as e:
      raise errors.DataError(f"the mask is {e}") from None
  is_array = isinstance(value, np.ndarray)
  if is_array and value.ndim == 3 and value.shape[-1]:
    value = value[..., 0]
  if not is_array or value.ndim != 2 or value.dtype.kind not in "buif":
    found = f"{value.dtype}{list(value.shape)}" if is_array else type(value).__name__
    raise errors.DataError(
      f"expected a mask, bool[H, W] or the bytes of a PNG file, found {found}."
    )
  if not value.size:
    raise errors.DataError(f"a mask without pixels, {list(value.shape)}.")
  return value > 0 if value.dtype != bool else value


def _resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
  """float32[height, width] of float32[h, w]: bilinear and antialiased, rows first.

  The reference's evaluator resizes with Pillow, whose bilinear filter has the same kernel.
  """
  x = image_files.resize_matrix(x.shape[0], height, "bilinear", True) @ x
  return (image_files.resize_matrix(x.shape[1], width, "bilinear", True) @ x.T).T
