"""Boxes and masks of a row to the text that the model learns; see `regions.loc`, `regions.seg`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.pp import columns
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg

_FRACTION_SLACK = 1e-3  # Fractions are often rounded to three digits.
_LEAST_SIDE = 8  # In smaller images, boxes of a pixel do not suggest a wrong unit.


@spec_lib.spec
class Boxes(columns.Op):
  """Box columns to '<loc0012><loc0345><loc0678><loc1023> cat ; …'.

  Attributes:
    bins: 1023 (the reference's data and metrics) or 1024 (the published demos): how a coordinate
      becomes one of 1024 tokens, see `regions.loc`. Evaluators must be given the same.
    order: the four numbers of a box: "yxyx" (y_min, x_min, y_max, x_max), "xyxy", or "xywh"
      (x_min, y_min, width, height: COCO).
    pixels: True: boxes are in pixels of the image that Decode gives (the upright one, or the stored
      one with Decode(exif=False)), and the op stands between Decode and Resize. False: they are
      fractions of the image's height and width, 0 to 1.
    key: the column with the list of boxes; an empty list gives an empty text.
    labels: the column with one label per box, or one label for all of them.
    image: the column of the image, read when `pixels`.
    shuffle: True lists the boxes in a new order in every epoch.
    outside: for a box that exceeds the image by more than rounding (a pixel): "error", or "cut" to
      clip it, which is noted. A box entirely outside is always an error.

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

  choices = (("outside", ("error", "cut")), ("order", ("yxyx", "xyxy", "xywh")))

  def __post_init__(self):
    super().__post_init__()
    loc.check_bins(self.bins)

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.labels, *((self.image,) if self.pixels else ()))

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    boxes = columns.entries(columns.get(row, self.key), self.key)
    labels = columns.labels(row, self.labels, len(boxes))
    height, width = columns.image(row, self.image).shape[-3:-1] if self.pixels else (1, 1)
    self._check_unit(boxes, height, width)
    notes: list[str] = []
    fractions = [self._fractions(box, height, width, notes) for box in boxes]
    if self.shuffle and len(labels) == len(fractions):
      order = rng.permutation(len(fractions))
      fractions, labels = [fractions[i] for i in order], [labels[i] for i in order]
    text = loc.format_boxes(fractions, labels, bins=self.bins)
    return {**row, self.out: text, **columns.noted(row, notes)}

  def _check_unit(self, boxes: Sequence[Any], height: int, width: int) -> None:
    """DataError where boxes that should be in pixels look like fractions of the image."""
    if not (self.pixels and boxes and min(height, width) > _LEAST_SIDE):
      return
    numbers = [v for box in boxes for v in columns.box(box, self.key)]
    if all(0 <= v <= 1 for v in numbers) and any(v != int(v) for v in numbers):
      raise errors.DataError(
        f"column {self.key!r}: all boxes, as {tuple(boxes[0])!r}, have numbers from 0 to 1, like"
        " fractions of the image; set Boxes(pixels=False)."
      )

  def _fractions(self, box: Any, height: int, width: int, notes: list[str]) -> tuple[float, ...]:
    """(y_min, x_min, y_max, x_max), clipped to the image as far as `outside` allows."""
    a, b, c, d = columns.box(box, self.key)
    if self.order == "xywh":
      a, b, c, d = b, a, b + d, a + c
    elif self.order == "xyxy":
      a, b, c, d = b, a, d, c
    found = (a / height, b / width, c / height, d / width)
    inside = tuple(min(max(v, 0.0), 1.0) for v in found)
    slack = (1 / height, 1 / width) * 2 if self.pixels else (_FRACTION_SLACK,) * 4
    if all(abs(v - w) <= more for v, w, more in zip(found, inside, slack, strict=True)):
      return inside if a <= c and b <= d else found  # `loc.format_boxes` rejects the latter.
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
class ParseBoxes(columns.Op):
  """A suffix of boxes, '<loc0012>… cat ; …', to the columns that `evals.CocoDetection` reads.

  Attributes:
    bins: 1023 or 1024, as the suffix was written with; see Boxes.
    key: the column with the text; an empty text is no object.
    boxes: the column of the result, (y_min, x_min, y_max, x_max) as fractions of the image.
    labels: the column of their labels.
    height, width: the columns of the image's size in pixels; a row without them gets the size of
      its image, and the op then stands between Decode and Resize.
    image: the column of the image.
  """

  bins: int
  key: str = "suffix"
  boxes: str = "boxes"
  labels: str = "labels"
  height: str = "height"
  width: str = "width"
  image: str = "image"

  reads = ("key", "image")
  writes = ("boxes", "labels", "height", "width")

  def __post_init__(self):
    loc.check_bins(self.bins)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    text = columns.text(row, self.key)
    found = loc.parse_boxes(text, bins=self.bins)
    if found.num_invalid:
      raise columns.wrong(
        self.key, "boxes as in '<loc0012><loc0034><loc0056><loc0078> cat ; …'", text
      )
    out = {**row, self.boxes: list(found.boxes), self.labels: list(found.labels)}
    if not (self.height in row and self.width in row):
      out[self.height], out[self.width] = columns.image(row, self.image).shape[-3:-1]
    return out


@spec_lib.spec
class KeepClasses(columns.Op):
  """Keeps only the objects with the given labels.

  Attributes:
    classes: the labels to keep, as texts.
    labels: the column with one label per object.
    along: the columns with one value per object, filtered alike; a row need not have them.
  """

  classes: tuple
  labels: str = "labels"
  along: tuple = ("boxes", "areas", "crowd", "masks")

  reads = ("labels",)
  writes = ("labels",)

  def __post_init__(self):
    if not self.classes or not all(isinstance(name, str) for name in self.classes):
      raise errors.ConfigError(
        f"KeepClasses.classes is {self.classes!r}; expected labels, as in ('cat', 'dog')."
      )

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    names = [self.labels, *(name for name in self.along if row.get(name) is not None)]
    lists = columns.alike(row, names)
    kept = [i for i, label in enumerate(lists[0]) if label in self.classes]
    filtered = {name: [values[i] for i in kept] for name, values in zip(names, lists, strict=True)}
    return {**row, **filtered}


_FAR = 1e4  # No coordinate of a box is this large.


@spec_lib.spec
class DrawBox(columns.Op):
  """Draws the outline of a box on the image, one pixel wide; it stands after Resize.

  The pixels are those of TensorFlow's draw_bounding_boxes: corners are scaled by height - 1 and
  width - 1 and truncated; edges outside the image, inverted boxes and boxes entirely outside are
  not drawn.

  Attributes:
    key: the column with the box: (y_min, x_min, y_max, x_max) as fractions of height and width.
    color: red, green and blue, 0 to 255.
    image: the column of the image; all frames get the box.

  Notes: box_inverted, box_outside.
  """

  key: str = "bbox"
  color: tuple = (255, 0, 0)
  image: str = "image"

  reads = ("key", "image")
  writes = ("image",)

  def __post_init__(self):
    if len(self.color) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in self.color):
      raise errors.ConfigError(f"DrawBox: color is {self.color!r}: expected three of 0 to 255.")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.image).copy()
    height, width = image.shape[-3:-1]
    value = columns.get(row, self.key)
    box = np.array(columns.box(value, self.key), np.float32)
    if not (np.abs(box) < _FAR).all():
      raise columns.wrong(self.key, "a box in fractions of height and width", value)
    scale = np.array([height - 1, width - 1] * 2, np.float32)
    top, left, bottom, right = (box * scale).astype(np.int64).tolist()
    if top > bottom or left > right:
      return {**row, **columns.noted(row, ["box_inverted"])}
    if bottom < 0 or right < 0 or top >= height or left >= width:
      return {**row, **columns.noted(row, ["box_outside"])}
    ys = slice(max(top, 0), min(bottom, height - 1) + 1)
    xs = slice(max(left, 0), min(right, width - 1) + 1)
    for y in {top, bottom} & set(range(height)):
      image[..., y, xs, :] = self.color
    for x in {left, right} & set(range(width)):
      image[..., ys, x, :] = self.color
    return {**row, self.image: image}


# A single token of every PaliGemma tokenizer that detection does not use otherwise. A text such as
# '<noise>' is several tokens, none of which could be banned alone.
NOISE = "<seg127>"

_SHIFT = 0.5  # By how many sides the centre of a noise box is moved from that of a true one.
_SCALES = (0.5, 2.0)  # By how much its sides are scaled.


@spec_lib.spec
class NoiseBoxes(columns.Op):
  """Box columns to '<loc…> cat ; <loc…> <seg127>', with coordinates of noise unsupervised.

  The true objects come first, in a random order, then noise boxes: half are true boxes moved and
  scaled, half are random.

  Attributes:
    bins: 1023 or 1024, see `regions.loc`.
    total: objects in a text, noise included; an image with as many or more gets no noise.
    noise: the label of noise boxes.
    key: the column with the boxes, (y_min, x_min, y_max, x_max) as fractions of the image.
    labels: the column with one label per box.
    crowd: the column with a flag per box that leaves it out; '' leaves out none.
    out: the column of the result, pieces (text, supervised).
  """

  bins: int
  total: int
  noise: str = NOISE
  key: str = "boxes"
  labels: str = "labels"
  crowd: str = ""
  out: str = "suffix"

  reads = ("key", "labels", "crowd")

  def __post_init__(self):
    loc.check_bins(self.bins)
    if self.total < 0:
      raise errors.ConfigError(f"NoiseBoxes.total is {self.total!r}; expected 0 or more.")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    boxes, labels, *crowd = columns.alike(row, self.needs())
    labels = [columns.as_text(label, self.labels) for label in labels]
    if crowd:
      kept = [i for i, flag in enumerate(crowd[0]) if not strict_json.yes_no(flag, self.crowd)]
      boxes, labels = [boxes[i] for i in kept], [labels[i] for i in kept]
    order = rng.permutation(len(boxes))
    texts = [loc.format_boxes([boxes[i]], [labels[i]], bins=self.bins) for i in order]
    pieces = [(loc.SEPARATOR.join(texts), True)]
    for n in range(len(texts), self.total):
      box = _moved(boxes[int(rng.integers(len(boxes)))], rng) if boxes and n % 2 else _random(rng)
      pieces.append((loc.SEPARATOR if n else "", True))
      pieces.append((loc.format_boxes([box], [""], bins=self.bins), False))
      pieces.append((f" {self.noise}", True))
    # The same text in as few pieces as possible.
    groups = itertools.groupby(pieces, key=lambda piece: piece[1])
    joined = (("".join(text for text, _ in group), supervised) for supervised, group in groups)
    return {**row, self.out: tuple(piece for piece in joined if piece[0])}


def _moved(box: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
  """A box near a true one, clipped to the image; a random one if nothing is left of it."""
  low, high = np.array(box[:2], float), np.array(box[2:], float)
  sides = (high - low) * rng.uniform(*_SCALES, 2)
  centre = (low + high) / 2 + (high - low) * rng.uniform(-_SHIFT, _SHIFT, 2)
  low, high = np.clip(centre - sides / 2, 0, 1), np.clip(centre + sides / 2, 0, 1)
  return (*low.tolist(), *high.tolist()) if (high > low).all() else _random(rng)


def _random(rng: np.random.Generator) -> tuple[float, ...]:
  corners = np.sort(rng.random((2, 2)), axis=0)
  return (*corners[0].tolist(), *corners[1].tolist())


@spec_lib.spec
class MaskToText(columns.Op):
  """A mask column to '<loc…> x 4 <seg…> x 16', or several masks to such texts joined by ' ; '.

  For data sets with several objects per image and several sentences per object, such as RefCOCO:

      pp.Choice(("objects/mask", "objects/bbox", "objects/refs/sentence"), ("mask", "box", "refs")),
      pp.Choice("refs", "prefix", each_once=False),  # In step with the objects, each object would
      pp.MaskToText(),                               # always get the same sentence.

  Attributes:
    codec: '' is the small embedded codec; the published models need the path of the published one,
      vae-oid.npz. Evaluators must be given the same.
    mask: the column with the mask of the whole image (bool[H, W], or the bytes of a PNG file), or
      with a list of masks.
    box: the column with its box (or a list of boxes), (y_min, x_min, y_max, x_max) as fractions of
      the image's height and width; '' takes the bounding box of the mask.
    labels: the column with one label, or one per mask, written after the tokens; '' writes none.
    bins: 1023 (the reference) or 1024: how a coordinate becomes a loc token, see `regions.loc`.
    tiny: for an object thinner than a pixel or a loc token: "drop" leaves it out of a text of
      several, "error" rejects the row. A row with tiny objects only is rejected.

  Notes: tiny_masks_dropped.
  """

  codec: str = ""
  mask: str = "mask"
  box: str = "box"
  labels: str = ""
  bins: int = 1023
  tiny: str = "drop"
  out: str = "suffix"

  reads = ("mask", "box", "labels")
  choices = (("tiny", ("drop", "error")),)

  def __post_init__(self):
    super().__post_init__()
    loc.check_bins(self.bins)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value = columns.get(row, self.mask)
    several = isinstance(value, (list, tuple))
    try:
      masks = _masks(value if several else [value])
    except errors.DataError as e:
      raise errors.DataError(f"column {self.mask!r}: {e}") from None
    boxes: list[Any] = [None] * len(masks)
    if self.box:
      found = columns.get(row, self.box)
      boxes = columns.entries(found, self.box) if several else [found]
    labels = columns.labels(row, self.labels, len(masks)) if self.labels else [""] * len(masks)
    codec = mask_codec.open_codec(self.codec)
    tiny: list[int] | None = [] if self.tiny == "drop" else None
    text = seg.masks_to_text(masks, boxes, labels, codec=codec, bins=self.bins, tiny=tiny)
    return {**row, self.out: text, **columns.noted(row, ["tiny_masks_dropped"] if tiny else [])}


def _masks(values: Sequence[Any]) -> list[np.ndarray]:
  """bool[H, W] each; a row may have MAX_ROW_ITEMS of them, of MAX_MASK_PIXELS in all."""
  if len(values) > columns.MAX_ROW_ITEMS:
    raise errors.DataError(f"{len(values)} masks; a row may have {columns.MAX_ROW_ITEMS}.")
  out, left = [], columns.MAX_MASK_PIXELS
  for value in values:
    out.append(seg.as_mask(value))
    left -= out[-1].size
    if left < 0:
      raise errors.DataError(
        f"the {len(values)} masks of the row have more than {columns.MAX_MASK_PIXELS} pixels in"
        " all."
      )
  return out
