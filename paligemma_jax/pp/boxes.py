"""Boxes of a row to the text the model learns to write, and back; see `regions.loc`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.pp import columns
from paligemma_jax.regions import loc

_ORDERS = ("yxyx", "xyxy", "xywh")
_OUTSIDE = ("error", "cut")
_SHARE_SLACK = 1e-3  # Shares are often rounded to three digits.
_LEAST_SIDE = 8  # Of smaller images, boxes of a pixel are no sign of a wrong unit.


@spec_lib.spec
class Boxes:
  """Box columns to '<loc0012><loc0345><loc0678><loc1023> cat ; …'.

  Attributes:
    bins: 1023 (the reference's data and metrics) or 1024 (the published demos): how a coordinate
      becomes one of 1024 tokens. There is no default; evaluators must be given the same.
    order: what the four numbers of a box are: "yxyx" (y_min, x_min, y_max, x_max), "xyxy", or
      "xywh" (x_min, y_min, width, height: COCO).
    pixels: True when they are pixels of the image: the op must then stand between Decode and
      Resize, and the boxes must be of the image that Decode gives: the upright one, or with
      Decode(exif=False) the stored one. False when they are shares of the image's height and
      width, 0 to 1.
    key: the column with the list of boxes; an empty list gives an empty text.
    labels: the column with one label per box, or one label for all of them.
    image: the column of the image, read when `pixels`.
    shuffle: True lists the boxes in another order in every epoch.
    outside: what becomes of a box that sticks out of the image by more than rounding (a pixel):
      "error", or "cut" at its edge, which is noted. One that lies outside as a whole is an error.
    out: the column of the result.

  Notes: boxes_clipped.
  """

  bins: int
  order: str = "yxyx"
  pixels: bool = False
  key: str = "boxes"
  labels: str = "labels"
  image: str = "image"
  shuffle: bool = False
  outside: str = "error"
  out: str = "suffix"

  def __post_init__(self):
    errors.pick(dict.fromkeys(_OUTSIDE), self.outside, "outside of Boxes")
    loc.from_token(0, bins=self.bins)  # Checks the convention.
    errors.pick(dict.fromkeys(_ORDERS), self.order, "order of Boxes")

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.labels, *((self.image,) if self.pixels else ()))

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    boxes = columns.entries(columns.get(row, self.key), self.key)
    labels = columns.listed(columns.get(row, self.labels))
    if isinstance(labels, (str, bytes)):
      labels = [labels] * len(boxes)
    labels = [columns.as_text(v, self.labels) for v in columns.entries(labels, self.labels)]
    height, width = columns.image(row, self.image).shape[-3:-1] if self.pixels else (1, 1)
    self._check_unit(boxes, height, width)
    notes: list[str] = []
    shares = [self._shares(box, height, width, notes) for box in boxes]
    if self.shuffle and len(labels) == len(shares):
      order = rng.permutation(len(shares))
      shares, labels = [shares[i] for i in order], [labels[i] for i in order]
    out = {**row, self.out: loc.format_boxes(shares, labels, bins=self.bins)}
    if notes:
      out[columns.NOTES] = columns.with_notes(row, tuple(dict.fromkeys(notes)))
    return out

  def _numbers(self, box: Any) -> tuple[float, ...]:
    try:
      numbers = tuple(float(v) for v in columns.listed(box))
    except (TypeError, ValueError):
      numbers = ()
    if len(numbers) != 4:
      raise columns.wrong(self.key, "boxes of four numbers", box)
    return numbers

  def _check_unit(self, boxes: Sequence[Any], height: int, width: int) -> None:
    """DataError where boxes in pixels look like shares."""
    if not (self.pixels and boxes and min(height, width) > _LEAST_SIDE):
      return
    numbers = [v for box in boxes for v in self._numbers(box)]
    if all(0 <= v <= 1 for v in numbers) and any(v != int(v) for v in numbers):
      raise errors.DataError(
        f"column {self.key!r}: all boxes, as {tuple(boxes[0])!r}, have numbers from 0 to 1, like"
        " shares of the image; set Boxes(pixels=False)."
      )

  def _shares(
    self, box: Any, height: int, width: int, notes: list[str]
  ) -> tuple[float, float, float, float]:
    """(y_min, x_min, y_max, x_max), cut at the image's edge as far as `outside` allows."""
    a, b, c, d = self._numbers(box)
    if self.order == "xywh":
      a, b, c, d = b, a, b + d, a + c
    elif self.order == "xyxy":
      a, b, c, d = b, a, d, c
    found = (a / height, b / width, c / height, d / width)
    inside = tuple(min(max(v, 0.0), 1.0) for v in found)
    slack = (1 / height, 1 / width) * 2 if self.pixels else (_SHARE_SLACK,) * 4
    if all(abs(v - w) <= more for v, w, more in zip(found, inside, slack, strict=True)):
      return inside if a <= c and b <= d else found  # `regions.loc` says what is wrong.
    overlaps = 0 <= found[2] and 0 <= found[3] and found[0] <= 1 and found[1] <= 1
    if self.outside == "cut" and a <= c and b <= d and overlaps:  # False of NaN.
      notes.append("boxes_clipped")
      return inside
    if not self.pixels:
      return found
    raise errors.DataError(
      f"column {self.key!r}: the box {box!r}, read as {self.order}, does not lie in the image,"
      f" {width} x {height} pixels. Is `order` right, or Decode's `exif`? Boxes(outside='cut')"
      " cuts boxes at the edge."
    )


@spec_lib.spec
class ParseBoxes:
  """A suffix of boxes, '<loc0012>… cat ; …', to the columns that mAP is scored against.

  For data whose answers are written already: `evals.CocoDetection` and `score("coco_detection")`
  want the true boxes as numbers.

  Attributes:
    bins: 1023 or 1024, as the suffix was written with; see Boxes.
    key: the column with the text; an empty text is no object.
    boxes: the column of the result, (y_min, x_min, y_max, x_max) as shares of the image.
    labels: the column of their labels.
    height, width: the columns of the image's size in pixels. Where the row has none, they are
      those of its image: the op then stands between Decode and Resize.
    image: the column of the image.
  """

  bins: int
  key: str = "suffix"
  boxes: str = "boxes"
  labels: str = "labels"
  height: str = "height"
  width: str = "width"
  image: str = "image"

  def __post_init__(self):
    loc.check_bins(self.bins)

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.image)

  def makes(self) -> tuple[str, ...]:
    return (self.boxes, self.labels, self.height, self.width)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    text = columns.text(row, self.key)
    found = loc.parse_boxes(text, bins=self.bins)
    if found.num_invalid:
      raise columns.wrong(
        self.key, "boxes as in '<loc0012><loc0034><loc0056><loc0078> cat ; …'", text
      )
    size = {}
    if not (self.height in row and self.width in row):
      size = dict(
        zip((self.height, self.width), columns.image(row, self.image).shape[-3:-1], strict=True)
      )
    boxes, labels = list(found.boxes), list(found.labels)
    return {**row, **size, self.boxes: boxes, self.labels: labels}


@spec_lib.spec
class KeepClasses:
  """Leaves out the objects whose label is none of those asked for.

  Attributes:
    classes: the labels to keep, as texts.
    labels: the column with one label per object.
    along: the columns with one value per object, which lose the same places; those that a row does
      not have are passed over.
  """

  classes: tuple
  labels: str = "labels"
  along: tuple = ("boxes", "areas", "crowd", "masks")

  def __post_init__(self):
    if not self.classes or not all(isinstance(name, str) for name in self.classes):
      raise errors.ConfigError(
        f"KeepClasses.classes is {self.classes!r}; expected labels, as in ('cat', 'dog')."
      )

  def needs(self) -> tuple[str, ...]:
    return (self.labels,)

  def makes(self) -> tuple[str, ...]:
    return (self.labels,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    labels = columns.entries(columns.get(row, self.labels), self.labels)
    kept = [i for i, label in enumerate(labels) if label in self.classes]
    out = {**row, self.labels: [labels[i] for i in kept]}
    for name in self.along:
      if row.get(name) is None:
        continue
      values = columns.entries(row[name], name)
      if len(values) != len(labels):
        raise errors.DataError(
          f"column {name!r} has {len(values)} values, but there are {len(labels)} labels in"
          f" {self.labels!r}."
        )
      out[name] = [values[i] for i in kept]
    return out


_FAR = 1e4  # No box of an image is so far out of it.


@spec_lib.spec
class DrawBox:
  """The outline of a box on the image, one pixel wide; it stands after Resize.

  Pixels are those of TensorFlow's draw_bounding_boxes: corners are scaled by height - 1 and
  width - 1 and truncated, edges outside of the image are left away, and of a box that ends before
  it begins, or lies outside as a whole, nothing is drawn.

  Attributes:
    key: the column with the box: (y_min, x_min, y_max, x_max) as shares of height and width.
    color: red, green and blue, 0 to 255.
    image: the column of the image, of which all frames get the box.

  Notes: box_inverted, box_outside.
  """

  key: str = "bbox"
  color: tuple = (255, 0, 0)
  image: str = "image"

  def __post_init__(self):
    if len(self.color) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in self.color):
      raise errors.ConfigError(f"DrawBox: color is {self.color!r}: expected three of 0 to 255.")

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.image)

  def makes(self) -> tuple[str, ...]:
    return (self.image,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.image).copy()
    height, width = image.shape[-3:-1]
    top, left, bottom, right = self._corners(row, height, width)
    if top > bottom or left > right:
      return {**row, columns.NOTES: columns.with_notes(row, ("box_inverted",))}
    if bottom < 0 or right < 0 or top >= height or left >= width:
      return {**row, columns.NOTES: columns.with_notes(row, ("box_outside",))}
    ys = slice(max(top, 0), min(bottom, height - 1) + 1)
    xs = slice(max(left, 0), min(right, width - 1) + 1)
    for y in {top, bottom} & set(range(height)):
      image[..., y, xs, :] = self.color
    for x in {left, right} & set(range(width)):
      image[..., ys, x, :] = self.color
    return {**row, self.image: image}

  def _corners(self, row: dict[str, Any], height: int, width: int) -> list[int]:
    value = columns.get(row, self.key)
    try:
      y_min, x_min, y_max, x_max = (float(v) for v in value)
    except (TypeError, ValueError):
      raise columns.wrong(self.key, "a box of four numbers", value) from None
    box = np.array([y_min, x_min, y_max, x_max], np.float32)
    if not (np.abs(box) < _FAR).all():
      raise columns.wrong(self.key, "a box in shares of height and width", value)
    scale = np.array([height - 1, width - 1] * 2, np.float32)
    return (box * scale).astype(np.int64).tolist()


# One token, which every PaliGemma tokenizer has and which detection has no other use for; a text as
# '<noise>' would be several, of which none could be banned alone.
NOISE = "<seg127>"

_SHIFT = 0.5  # Of a noise box made from a true one: its centre, in sides of the box.
_SCALES = (0.5, 2.0)  # Its sides.


@spec_lib.spec
class NoiseBoxes:
  """Box columns to '<loc…> cat ; <loc…> <seg127>', in pieces: where noise lies is not learned.

  The true objects come first, in a random order, then noise: half true boxes moved and scaled, half
  boxes of anywhere.

  Attributes:
    bins: 1023 or 1024, see `regions.loc`.
    total: objects of a text, noise included; an image with as many or more gets no noise.
    noise: the label of noise.
    key: the column with the boxes, (y_min, x_min, y_max, x_max) as shares of the image.
    labels: the column with a label per box.
    crowd: a column that says of each box whether to leave it out; '' leaves out none.
    out: the column of the result, pieces (text, supervised).
  """

  bins: int
  total: int
  noise: str = NOISE
  key: str = "boxes"
  labels: str = "labels"
  crowd: str = ""
  out: str = "suffix"

  def __post_init__(self):
    loc.check_bins(self.bins)
    if self.total < 0:
      raise errors.ConfigError(f"NoiseBoxes.total is {self.total!r}; expected 0 or more.")

  def needs(self) -> tuple[str, ...]:
    return tuple(name for name in (self.key, self.labels, self.crowd) if name)

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    boxes = columns.entries(columns.get(row, self.key), self.key)
    labels = columns.entries(columns.get(row, self.labels), self.labels)
    labels = [columns.as_text(label, self.labels) for label in labels]
    if len(labels) != len(boxes):
      raise errors.DataError(f"{len(boxes)} boxes but {len(labels)} labels; each box needs one.")
    if self.crowd:
      crowd = columns.entries(columns.get(row, self.crowd), self.crowd)
      if len(crowd) != len(boxes):
        raise errors.DataError(f"{len(boxes)} boxes but {len(crowd)} marks of crowds.")
      kept = [i for i, skip in enumerate(crowd) if not strict_json.yes_no(skip, self.crowd)]
      boxes, labels = [boxes[i] for i in kept], [labels[i] for i in kept]
    order = rng.permutation(len(boxes))
    texts = [loc.format_boxes([boxes[i]], [labels[i]], bins=self.bins) for i in order]
    pieces = [(loc.SEPARATOR.join(texts), True)]
    for n in range(len(texts), self.total):
      box = _moved(boxes[int(rng.integers(len(boxes)))], rng) if boxes and n % 2 else _any(rng)
      pieces.append((loc.SEPARATOR if n else "", True))
      pieces.append((loc.format_boxes([box], [""], bins=self.bins), False))
      pieces.append((f" {self.noise}", True))
    return {**row, self.out: tuple(_joined(pieces))}


def _moved(box: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
  """A box near a true one, cut at the image's edge; of anywhere if nothing is left of it."""
  low, high = np.array(box[:2], float), np.array(box[2:], float)
  sides = (high - low) * rng.uniform(*_SCALES, 2)
  centre = (low + high) / 2 + (high - low) * rng.uniform(-_SHIFT, _SHIFT, 2)
  low, high = np.clip(centre - sides / 2, 0, 1), np.clip(centre + sides / 2, 0, 1)
  return (*low.tolist(), *high.tolist()) if (high > low).all() else _any(rng)


def _any(rng: np.random.Generator) -> tuple[float, ...]:
  corners = np.sort(rng.random((2, 2)), axis=0)
  return (*corners[0].tolist(), *corners[1].tolist())


def _joined(pieces: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
  """The same text in as few pieces as can be."""
  out: list[tuple[str, bool]] = []
  for text, supervised in pieces:
    if out and out[-1][1] == supervised:
      out[-1] = (out[-1][0] + text, supervised)
    elif text:
      out.append((text, supervised))
  return out
