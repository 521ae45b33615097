"""Rows of annotated images: the columns of Coco, Yolo and Voc.

    image       bytes of the file            image_path   relative to the folder of images
    image_id    the format's own             height, width   in pixels
    boxes       [(y_min, x_min, y_max, x_max), …] as fractions of the image
    labels      [text, …]                    areas        [square pixels, …]
    crowd       [bool, …]: objects that evaluation skips (COCO's crowds, VOC's difficult objects)
    masks       [bool[height, width], …], with masks=True

EXIF may ask to show an image otherwise than it is stored. The source's `exif` says whether the
annotations are of the upright image (True) or of the stored one (False); "auto" takes the one whose
size the annotations give, and the upright one where both have it. Size, boxes and masks are of that
image, and `pp.Decode` gives its pixels.

With bad_annotations="error" a wrong annotation rejects its row; with "skip" it is left out, counted
and logged.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from absl import logging

from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.core import strict_json
from paligemma_jax.sources import files

BAD_ANNOTATIONS = ("error", "skip")
MAX_MASK_PIXELS = 256_000_000  # Of all masks of a row; one byte each.

COLUMNS = (
  "image", "image_path", "image_id", "height", "width", "boxes", "labels", "areas", "crowd"
)  # fmt: skip
_TOO_LARGE = 1e15
_MAX_DIGITS = 40  # Of a number that is written as a text.
_NUM_LOOKED = 4  # Paths that a message names.
_NUM_LOGGED = 5  # Annotations left out that each process logs.
_SIDES = ("height", "width")
_LEAST_SIDE = 8  # In smaller images, boxes of a pixel do not suggest a wrong unit.
_OUTSIDE = 1.0  # Pixels by which a box may exceed the image without a note: annotation tools round.

T = TypeVar("T")
Size = tuple[int, int]  # Height and width in pixels.


class Source:
  """What the specs of annotated images share; each has these fields."""

  masks: bool
  exif: bool | str
  bad_annotations: str

  def __post_init__(self) -> None:
    name = type(self).__name__
    check_exif(name, self.exif)
    errors.pick(dict.fromkeys(BAD_ANNOTATIONS), self.bad_annotations, f"{name}.bad_annotations")

  def makes(self) -> tuple[str, ...]:
    return (*COLUMNS, "masks") if self.masks else COLUMNS


class Rows(files.Rows):
  """Rows that are known by the names of their images when the source is opened."""

  _names: list[str]

  def __len__(self) -> int:
    return len(self._names)

  def digests(self) -> array.array:
    """uint16[rows], of the images' names."""
    return files.row_digests(name.encode("utf-8", "surrogatepass") for name in self._names)


class Thing(NamedTuple):
  """One object of an image.

  label: its class.
  box: (x_min, y_min, x_max, y_max) in pixels; it is clipped to the image.
  area: in square pixels; 0 takes the box's.
  mask: makes bool[height, width]; None without one.
  written: the numbers in the annotations, where they should be in pixels.
  """

  label: str
  box: tuple[float, float, float, float]
  area: float = 0.0
  crowd: bool = False
  mask: Callable[[], np.ndarray] | None = None
  written: tuple[float, ...] = ()


def row(
  data: bytes,
  path: str,
  image_id: Any,
  things: Sequence[tuple[str, T]],
  make: Callable[[T, Size], Thing],
  source: Source,
  where: str,
  *,
  annotated: Sequence[Any] = (None, None),
  what: str = "",
) -> dict[str, Any]:
  """The row of an image.

  Args:
    data: the image file.
    things: the place of each object in the annotations, and what is written there.
    make: the object that is written, in an image of this size; or a DataError.
    source: the spec; `where` is the row's name in the log.
    annotated: height and width in the annotations; None, 0 or '' where they are missing.
    what: the place of `annotated` in messages, as "its <size>".

  Raises:
    DataError: no image, or one of another size than `annotated`; a box that is inverted, outside
      the image or in fractions of it, a missing mask, or masks of more than MAX_MASK_PIXELS.
  """
  size, is_upright = _size(data, source.exif, annotated, what)
  if source.masks and len(things) * size[0] * size[1] > MAX_MASK_PIXELS:
    raise errors.DataError(
      f"{len(things)} masks of {size[1]} x {size[0]} pixels; a row may have"
      f" {MAX_MASK_PIXELS} pixels of masks in all. Make the image smaller, or set masks=False."
    )
  found: list[Thing] = []
  boxes, areas, masks, written, notes = [], [], [], [], []
  for n, (place, content) in enumerate(things, 1):
    try:
      with errors.within(place):
        thing = make(content, size)
      written.append(thing.written)
      with errors.within(f"object {n} ({thing.label!r})"):
        (y_min, x_min, y_max, x_max), clipped = _inside(thing.box, *size)
        mask = _mask(thing, size) if source.masks else None
    except errors.DataError as e:
      if source.bad_annotations == "error":
        raise
      notes.append("annotations_skipped")
      _log(where, e)
      continue
    if clipped:
      notes.append("boxes_clipped")
    found.append(thing)
    boxes.append((y_min / size[0], x_min / size[1], y_max / size[0], x_max / size[1]))
    areas.append(float(thing.area or (y_max - y_min) * (x_max - x_min)))
    masks.append(mask)
  _check_unit(list(filter(None, written)), size, source)
  out = {
    "image": data,
    "image_path": path,
    "image_id": image_id,
    "height": size[0],
    "width": size[1],
    "boxes": boxes,
    "labels": [thing.label for thing in found],
    "areas": areas,
    "crowd": [thing.crowd for thing in found],
  }
  if source.masks:
    out["masks"] = masks
  if notes:
    out["_notes"] = tuple(dict.fromkeys(notes))
  return out if is_upright is None else {**out, image_files.EXIF: is_upright}


def _size(
  data: bytes, exif: bool | str, annotated: Sequence[Any], what: str
) -> tuple[Size, bool | None]:
  """The size of the image that the annotations are of, and whether that is the upright one.

  The latter is None where upright and stored image do not differ. Arguments as of `row`.
  """
  found = image_files.header(data)
  upright, stored = found.size(exif=True), found.size(exif=False)
  height, width = (_side(v, f"{what}: {name}") for v, name in zip(annotated, _SIDES, strict=True))

  def fits(size: Size) -> bool:
    return height in (0, size[0]) and width in (0, size[1])

  chosen = (fits(upright) or not fits(stored)) if exif == "auto" else bool(exif)
  size = upright if chosen else stored
  if fits(size):
    return size, chosen if found.orientation > 1 else None
  expected = f"{what} says {width} x {height} pixels (width x height)"
  if found.orientation >= 5:
    raise errors.DataError(
      f"{expected}, but the file has {stored[1]} x {stored[0]} as stored and {upright[1]} x"
      f" {upright[0]} upright (EXIF orientation {found.orientation}), and exif={exif!r} takes the"
      f" {'upright' if chosen else 'stored'} one."
    )
  swapped = " The sides are swapped." if fits(size[::-1]) else ""
  raise errors.DataError(f"{expected}, but the file has {size[1]} x {size[0]}.{swapped}")


def _side(value: Any, what: str) -> int:
  """A whole number of pixels; 0 without one."""
  side = 0 if value is None or value == "" else number(value, what)
  if side < 0 or side != int(side):
    raise errors.DataError(f"{what} is {str(value)[:60]!r}; expected a whole number of pixels.")
  return int(side)


_logged: list[str] = []  # By this process, so that it is not logged again in every epoch.


def _log(where: str, error: errors.DataError) -> None:
  line = f"{where}: {error}"
  if len(_logged) < _NUM_LOGGED and line not in _logged:
    _logged.append(line)
    more = " (more are counted, but not logged)" if len(_logged) == _NUM_LOGGED else ""
    logging.warning("annotation left out (bad_annotations='skip'): %s%s", line, more)


def check_exif(what: str, exif: Any) -> None:
  """ConfigError unless `exif` is True, False or 'auto'."""
  if exif is not True and exif is not False and exif != "auto":
    raise errors.ConfigError(f"{what}.exif is {exif!r}; expected True, False or 'auto'.")


def check_found(num_found: int, num: int, what: str, looked: Iterable[str], remedy: str) -> None:
  """DataError where less than half of the annotations of a data set are found.

  `what` is the rest of the sentence, as "images of a/b have a label file"; of the missing paths,
  `looked`, the first are named; `remedy` is one sentence.
  """
  if num and 2 * num_found < num:
    places = ", ".join(map(repr, list(looked)[:_NUM_LOOKED]))
    raise errors.DataError(
      f"{num_found or 'none'} of the {num} {what}; looked for {places}. {remedy}"
    )


def check_classes(names: Iterable[str], path: str) -> None:
  """DataError where the name of a class in the file `path` is not valid Unicode."""
  try:
    for name in names:
      strict_json.check_text(name)
  except strict_json.Malformed as e:
    raise errors.DataError(f"{path}: among the names of classes is a {e}.") from None


def _check_unit(boxes: Sequence[tuple[float, ...]], size: Size, source: Source) -> None:
  """DataError where boxes that should be in pixels look like fractions of the image."""
  small = min(size) > _LEAST_SIDE and all(0 <= v <= 1 for box in boxes for v in box)
  if small and any(v != int(v) for box in boxes for v in box):
    raise errors.DataError(
      f"all boxes, as {boxes[0]}, have numbers from 0 to 1, like fractions of the image;"
      f" {type(source).__name__.upper()} has pixels."
    )


def number(value: Any, what: str) -> float:
  """A finite number, possibly as a text; DataError for anything else."""
  found = value
  if isinstance(value, str):
    try:
      # Python also accepts 1_0 and digits of other scripts.
      plain = len(value) < _MAX_DIGITS and "_" not in value and value.isascii()
      found = float(value) if plain else None
    except ValueError:
      found = None
  # The comparison is false for NaN, and safe for integers that exceed a float.
  if type(found) not in (int, float) or not abs(found) < _TOO_LARGE:
    raise errors.DataError(f"{what} is {str(value)[:60]!r}; expected a number.")
  return float(found)


def _inside(
  box: tuple[float, ...], height: int, width: int
) -> tuple[tuple[float, float, float, float], bool]:
  """(y_min, x_min, y_max, x_max) within the image, and whether that clipped more than rounding."""
  x_min, y_min, x_max, y_max = box
  if not (x_min <= x_max and y_min <= y_max):  # NaN too.
    raise errors.DataError(f"the box {box} has a minimum above its maximum.")
  if x_max < 0 or y_max < 0 or x_min > width or y_min > height:
    raise errors.DataError(f"the box {box} lies outside the image, {width} x {height}.")
  clipped = min(x_min, y_min) < -_OUTSIDE or x_max > width + _OUTSIDE or y_max > height + _OUTSIDE
  inside = max(y_min, 0.0), max(x_min, 0.0), min(y_max, height), min(x_max, width)
  return inside, clipped


def _mask(thing: Thing, size: Size) -> np.ndarray:
  if thing.mask is None:
    raise errors.DataError(
      "has no mask; set masks=False, or bad_annotations='skip' to leave such objects out."
    )
  mask = thing.mask()
  if mask.shape != size:
    raise errors.DataError(f"its mask is {list(mask.shape)}, the image {list(size)}.")
  return mask
