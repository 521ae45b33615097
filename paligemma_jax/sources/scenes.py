"""Generated rows: scenes of emoji drawings with exact answers, and masks to train codecs.

A row is a pure function of (spec, row number); only the drawings are stored. A scene of 112 pixels
takes less than half a millisecond.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import prng
from paligemma_jax.core import spec
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from paligemma_jax.sources import files

# By style and task. No prompt of "demo" occurs in "pretrain".
PROMPTS: Mapping[str, Mapping[str, str]] = {
  "pretrain": {
    "caption": "caption en",
    "count": "count {}",
    "detect": "detect {}",
    "segment": "segment {}",
  },
  "demo": {
    "caption": "describe the picture",
    "count": "how many {}s are there?",
    "detect": "where is the {}?",
    "segment": "outline the {}",
  },
}
TASKS = ("caption", "count", "detect", "segment")
BINS = 1024  # The published demos' convention of loc tokens (see regions/loc.py).

DEMO = pathlib.Path(__file__).resolve().parent.parent / "assets" / "demo"
SPLITS = ("base", "heldout", "all")

Box = tuple[slice, slice]  # Rows and columns of pixels.

_NUM_CELLS = 8  # Drawings are placed on a grid of 8 x 8 cells; at 112 pixels a cell is a patch.
_SIDES = (2, 3)  # Longer side of a drawing, in cells; of more than 3 drawings the lesser.
_MIN_GAP = 0.6  # Cells between the centres of drawings that a caption orders from left to right.
_NUMBERS = ("no", "a", "two", "three", "four", "five")
_MASK_SIDES = (24, 73)  # Pixels of a mask's longer side before it is rotated and cut.
_LEAST_SIDE = 8  # Pixels of both sides of a mask afterwards.


@spec.spec
class Scenes:
  """Scenes of 1 to 5 drawings, a question about each, and its answer.

  Columns: image uint8[size, size, 3], prefix, suffix, task, label (the class in question, else ''),
  boxes and labels (the objects in the suffix of a detect or segment row, else empty), mask
  bool[size, size] (the object of a segment row, else all False), objects: all drawings of the scene
  as (label, box). A box is (y_min, x_min, y_max, x_max) of the drawing's pixels, as fractions of
  the image; boxes are disjoint. Captions name drawings from left to right, equal ones together at
  the place of the leftmost. Masks are in the tokens of the embedded codec.

  Attributes:
    split: a name; splits have no scene in common.
    num_rows: the number of rows.
    tasks: some of caption, count, detect and segment, in turns.
    classes: the drawings: base (64), heldout (12 others) or all.
    prompts: the wording of the questions, pretrain or demo.
    size: the image's side in pixels.
    most: the most drawings in a scene, 1 to 5.
    kinds: the most classes in a scene.
    warmup: the first rows, this many, are captions of a single drawing, for any `tasks`; a model
      from scratch learns to see from them.
    seed: scenes differ by seed.
  """

  split: str = "train"
  num_rows: int = 1000
  tasks: tuple = ("caption", "count", "detect")
  classes: str = "base"
  prompts: str = "pretrain"
  size: int = 112
  most: int = 5
  kinds: int = 5
  warmup: int = 0
  seed: int = 0

  def __post_init__(self):
    if not self.tasks:
      raise errors.ConfigError(f"Scenes.tasks is empty; name some of {', '.join(TASKS)}.")
    for task in self.tasks:
      errors.pick(dict.fromkeys(TASKS), task, "task of Scenes.tasks")
    errors.pick(dict.fromkeys(SPLITS), self.classes, "Scenes.classes")
    errors.pick(PROMPTS, self.prompts, "Scenes.prompts")
    _check_ranges(self, num_rows=(0, math.inf), warmup=(0, math.inf), size=(56, 2048))
    _check_ranges(self, most=(1, 5), kinds=(1, 5))

  def open(self) -> GeneratedRows:
    return GeneratedRows(self, "scene")

  def makes(self) -> tuple[str, ...]:
    return ("image", "prefix", "suffix", "task", "label", "boxes", "labels", "mask", "objects")

  def row(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
    simple = i < self.warmup
    task = "caption" if simple else self.tasks[i % len(self.tasks)]
    known = names(self.classes)
    while True:  # Mostly once; some draws lack room, or a clear order from left to right.
      cast = [known[c] for c in _cast(rng, task, len(known))][: 1 if simple else None]
      if len(cast) > self.most or len(set(cast)) > self.kinds:
        continue
      places = _place(rng, cast, self.size)
      answer = _answer(task, cast, places, self.size) if len(places) == len(cast) else None
      if answer is not None:
        break
    label = "" if task == "caption" else cast[0]
    boxes = tuple(_fractions(box, self.size) for _, box in places)
    asked = task in ("detect", "segment")  # The first drawing is unique.
    mask = np.zeros((self.size, self.size), bool)
    if task == "segment":
      sprite, box = places[0]
      mask[box] = sprite.mask
    return {
      "image": _render(rng, places, self.size),
      "prefix": PROMPTS[self.prompts][task].format(label),
      "suffix": answer,
      "task": task,
      "label": label,
      "boxes": boxes[:1] if asked else (),
      "labels": (label,) if asked else (),
      "mask": mask,
      "objects": tuple(zip(cast, boxes, strict=True)),
    }


@spec.spec
class Masks:
  """Masks of single objects, each cropped to its bounding box.

  Columns: mask bool[H, W] and label: a drawing's name, "polygon" or "ellipse".

  Attributes:
    split, num_rows, classes, seed: as of `Scenes`.
    simple: the fraction of polygons and ellipses, 0 to 1.
    vary: mirrors, rotates by up to 20 degrees, and hides a part of every third mask; False gives
      the drawings as they are, in order.
  """

  split: str = "train"
  num_rows: int = 1000
  classes: str = "base"
  simple: float = 0.25
  vary: bool = True
  seed: int = 0

  def __post_init__(self):
    errors.pick(dict.fromkeys(SPLITS), self.classes, "Masks.classes")
    _check_ranges(self, num_rows=(0, math.inf), simple=(0, 1))

  def open(self) -> GeneratedRows:
    return GeneratedRows(self, "mask")

  def makes(self) -> tuple[str, ...]:
    return ("mask", "label")

  def row(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
    known = names(self.classes)
    while True:  # Mostly once; a rotated or cut mask may be too small.
      label = known[i % len(known)]
      if rng.random() < self.simple:
        label = "polygon" if rng.random() < 0.5 else "ellipse"
        mask = _polygon(rng) if label == "polygon" else _ellipse(rng)
      else:
        side = int(rng.integers(*_MASK_SIDES))
        mask = get(label, side=side, flip=bool(self.vary and rng.random() < 0.5)).mask
      if self.vary:
        mask = _varied(rng, mask)
      mask = np.ascontiguousarray(mask[_bounding_box(mask)])
      if min(mask.shape) >= _LEAST_SIDE:
        return {"mask": mask, "label": label}


class GeneratedRows(files.Rows):
  """The rows of a `Scenes` or a `Masks`. Picklable."""

  generated = True  # They have columns for every use, some of which a config does not read.

  def __init__(self, source: Scenes | Masks, kind: str):
    self._spec, self._kind = source, kind

  def __len__(self) -> int:
    return self._spec.num_rows

  def _row(self, i: int) -> dict[str, Any]:
    s = self._spec
    return s.row(i, prng.generator(s.seed, zlib.crc32(s.split.encode()), i))

  def where(self, i: int) -> str:
    return f"{self._kind} {i} of {self._spec.split!r} (seed {self._spec.seed})"

  def fingerprint(self) -> str:
    """Changes when the rows may change."""
    drawings = (DEMO / "sprites.png").read_bytes() + (DEMO / "names.json").read_bytes()
    content = f"{self._spec!r}{zlib.crc32(drawings):08x}".encode()
    if isinstance(self._spec, Scenes) and "segment" in self._spec.tasks:
      content += mask_codec.EMBEDDED.read_bytes()
    return f"{zlib.crc32(content):08x}"


def _check_ranges(source: Any, **ranges: tuple[float, float]) -> None:
  for name, (least, most) in ranges.items():
    value = getattr(source, name)
    if not least <= value <= most:
      raise errors.ConfigError(
        f"{type(source).__name__}.{name}={value!r} must be from {least} to {most}."
      )


def _cast(rng: np.random.Generator, task: str, num_classes: int) -> list[int]:
  """The class of each drawing, the one in question first.

  Half of the scenes of caption, detect and segment are simple, which helps learning.
  """
  classes = [int(c) for c in rng.permutation(num_classes)[:5]]
  simple = rng.random() < 0.5
  if task == "caption":  # 1 to 3 groups, 4 drawings at most.
    num_groups = int(rng.choice(3, p=(0.5, 0.3, 0.2))) + 1
    num_more = 0 if simple else int(rng.integers(0, 5 - num_groups))
    groups = list(range(num_groups)) + [int(g) for g in rng.integers(0, num_groups, num_more)]
    return [classes[g] for g in groups]
  if task == "count":  # Each number is equally likely; the others are distractors.
    num = int(rng.integers(1, 5))
    others = int(rng.integers(0, 6 - num))
    return [classes[0]] * num + [classes[1 + int(g)] for g in rng.integers(0, 2, others)]
  others = 0 if simple else int(rng.integers(1, 4))
  return [classes[0]] + classes[1 : 1 + others]


def _place(rng: np.random.Generator, names: list[str], size: int) -> list[Place]:
  """Drawings of random sizes and flips at disjoint places of the grid; fewer without room."""
  num = len(names)
  sides = rng.integers(0, len(_SIDES) if num <= 3 else 1, num)
  flips = rng.random(num) < 0.5
  chances = rng.random((num, 16, 2))
  cell = size / _NUM_CELLS
  places: list[Place] = []
  for i in range(num):
    side = round(_SIDES[sides[i]] * cell)
    sprite = get(names[i], side=side, flip=bool(flips[i]))
    height, width = sprite.mask.shape
    corners_y, corners_x = ((size - length) // cell + 1 for length in (height, width))
    for chance_y, chance_x in chances[i]:
      y, x = round(int(chance_y * corners_y) * cell), round(int(chance_x * corners_x) * cell)
      box = slice(y, y + height), slice(x, x + width)
      if not any(_overlap(box, other) for _, other in places):
        places.append((sprite, box))
        break
  return places


def _overlap(a: Box, b: Box) -> bool:
  return all(i.start < j.stop and j.start < i.stop for i, j in zip(a, b, strict=True))


def _fractions(box: Box, size: int) -> tuple[float, ...]:
  rows, columns = box
  return rows.start / size, columns.start / size, rows.stop / size, columns.stop / size


def _render(rng: np.random.Generator, places: list[Place], size: int) -> np.ndarray:
  """The image, uint8[size, size, 3]."""
  image = _background(rng, size)
  for sprite, box in places:
    image[box] = (image[box] * sprite.keep + sprite.paint) >> 8
  brightness = rng.uniform(0.7, 1.15)
  return np.minimum(np.arange(256) * brightness, 255).astype(np.uint8)[image]


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
  """uint8[size, size, 3]: a light colour, uniform or with a gradient to another.

  Light, because the tiny model learned only the most frequent answers from 25 000 scenes of any
  colour and pattern; it named single drawings on light backgrounds after 14 000.
  """
  first, second = rng.uniform(200, 255, (2, 3))
  ramp = np.linspace(0, 1, size)[:, None] * (rng.random() < 0.5)
  line = (first + ramp * (second - first)).astype(np.uint8)
  line = line[:, None] if rng.random() < 0.5 else line[None]
  return np.ascontiguousarray(np.broadcast_to(line, (size, size, 3)))


def _answer(task: str, names: list[str], places: list[Place], size: int) -> str | None:
  """The suffix, or None where the scene is ambiguous."""
  (_, _, mask), box = places[0]
  if task == "count":
    return str(names.count(names[0]))
  if task == "detect":
    return loc.format_boxes([_fractions(box, size)], names[:1], bins=BINS)
  if task == "segment":
    codes = _codes(mask.shape, np.packbits(mask).tobytes())
    return seg.format_segment(_fractions(box, size), codes, names[0], bins=BINS)
  leftmost: dict[str, float] = {}  # Of each name, the centre of the drawing furthest left.
  for name, (_, (_, columns)) in zip(names, places, strict=True):
    centre = (columns.start + columns.stop) / 2
    leftmost[name] = min(centre, leftmost.get(name, centre))
  order = sorted(leftmost, key=leftmost.__getitem__)
  gaps = [leftmost[b] - leftmost[a] for a, b in itertools.pairwise(order)]
  if gaps and min(gaps) < _MIN_GAP * size / _NUM_CELLS:
    return None
  phrases = []
  for name in order:
    article, num = "an" if name[0] in "aeiou" else "a", names.count(name)
    phrases.append(f"{article} {name}" if num == 1 else f"{_NUMBERS[num]} {name}s")
  return " and ".join([p for p in (", ".join(phrases[:-1]), phrases[-1]) if p])


@functools.lru_cache(maxsize=4096)  # Few drawings in few sizes recur.
def _codes(shape: tuple[int, int], packed: bytes) -> tuple[int, ...]:
  """The codes of a mask of packed bits."""
  bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=shape[0] * shape[1])
  square = seg.to_square(bits.reshape(shape).astype(bool))
  return tuple(mask_codec.open_codec().encode(square[None])[0].tolist())


class Sprite(NamedTuple):
  """A drawing that is blended as `(background * keep + paint) >> 8`.

  keep: uint16[h, w, 1], the background's part in 256ths.
  paint: uint16[h, w, 3], the drawing's colours times its opacity.
  mask: bool[h, w], the visible pixels; touches all four sides.
  """

  keep: np.ndarray
  paint: np.ndarray
  mask: np.ndarray


Place = tuple[Sprite, Box]  # A drawing, and the bounding box of its mask.


@functools.cache
def names(split: str) -> tuple[str, ...]:
  """The class names of a split, in the atlas's order."""
  return tuple(c["name"] for c in _classes() if split in ("all", c["split"]))


@functools.cache
def get(name: str, *, side: int, flip: bool) -> Sprite:
  """A drawing with its longer side of `side` pixels (or one less after trimming)."""
  from PIL import Image  # Here, so that importing a source stays cheap.

  x, y, width, height = next(c["box"] for c in _classes() if c["name"] == name)
  rgba = np.ascontiguousarray(_atlas()[y : y + height, x : x + width])
  scale = side / max(width, height)
  shape = max(1, round(width * scale)), max(1, round(height * scale))
  # Premultiplied ("RGBa") before scaling, so that no colour bleeds in from transparent pixels.
  image = Image.fromarray(rgba, "RGBA").convert("RGBa").resize(shape, Image.Resampling.BICUBIC)
  pixels = np.asarray(image)
  mask = pixels[..., 3] >= 128
  inside = _bounding_box(mask)
  pixels, mask = pixels[inside], mask[inside]
  if flip:
    pixels, mask = pixels[:, ::-1], mask[:, ::-1]
  alpha = pixels[..., 3:].astype(np.uint16)
  paint = np.minimum(pixels[..., :3], pixels[..., 3:]).astype(np.uint16) * 256
  # 256 * color + (256 - alpha') * background stays below 2**16: alpha' is alpha stretched to 256.
  keep = (256 - (alpha + (alpha >> 7))).astype(np.uint16)
  return Sprite(keep, paint, np.ascontiguousarray(mask))


def _bounding_box(mask: np.ndarray) -> Box:
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if not len(rows):
    return slice(0), slice(0)
  return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@functools.cache
def _classes() -> tuple[dict, ...]:
  return tuple(json.loads((DEMO / "names.json").read_text(encoding="utf-8"))["classes"])


@functools.cache
def _atlas() -> np.ndarray:
  """uint8[H, W, 4]."""
  from PIL import Image

  with Image.open(DEMO / "sprites.png") as image:
    return np.asarray(image.convert("RGBA"))


def _polygon(rng: np.random.Generator) -> np.ndarray:
  """bool[H, W]: 3 to 8 corners around a centre, at random distances."""
  from PIL import Image  # Here, so that importing a source stays cheap.
  from PIL import ImageDraw

  side = int(rng.integers(*_MASK_SIDES))
  angles = np.sort(rng.random(int(rng.integers(3, 9)))) * (2 * math.pi)
  radii = rng.uniform(0.3, 1.0, len(angles)) * side / 2
  corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + side / 2
  image = Image.new("1", (side, side))
  ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
  return np.asarray(image)


def _ellipse(rng: np.random.Generator) -> np.ndarray:
  """bool[H, W]: random axes and direction."""
  side = int(rng.integers(*_MASK_SIDES))
  angle = rng.random() * math.pi
  radii = rng.uniform(0.25, 1.0, 2) * side / 2
  y, x = np.indices((side, side)) + 0.5 - side / 2
  along = (math.cos(angle) * x + math.sin(angle) * y) / radii[0]
  across = (math.cos(angle) * y - math.sin(angle) * x) / radii[1]
  return along**2 + across**2 <= 1


def _varied(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
  """Every second mask is rotated; every third loses up to half of its height or width."""
  from PIL import Image

  angle = rng.uniform(-20, 20) * (rng.random() < 0.5)
  mask = np.asarray(Image.fromarray(mask).rotate(angle, expand=True)) if angle else mask
  if rng.random() >= 1 / 3:
    return mask
  axis, keep = int(rng.integers(2)), rng.uniform(0.5, 1.0)
  length = max(1, round(mask.shape[axis] * keep))
  start = int(rng.integers(mask.shape[axis] - length + 1))
  return mask[start : start + length] if axis == 0 else mask[:, start : start + length]
