"""Generated rows: scenes of emoji drawings with exact captions, counts, boxes and masks.

A row is a pure function of (spec, row number); only the drawings are stored. A scene of 112 pixels
takes less than half a millisecond.
"""

from __future__ import annotations

import functools
import itertools
import json
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

_NUM_CELLS = 8  # Drawings are placed on a grid of 8 x 8 cells; at 112 pixels a cell is a patch.
_SIDES = (2, 3)  # Longer side of a drawing, in cells; of more than 3 drawings the lesser.
_MIN_GAP = 0.6  # Cells between the centres of drawings that a caption orders from left to right.
_NUMBERS = ("no", "a", "two", "three", "four", "five")


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
    for name in ("most", "kinds"):
      if not 1 <= getattr(self, name) <= 5:
        raise errors.ConfigError(f"Scenes.{name}={getattr(self, name)!r} must be 1 to 5.")
    if min(self.num_rows, self.warmup) < 0 or not 56 <= self.size <= 2048:
      raise errors.ConfigError(
        f"Scenes.num_rows={self.num_rows!r} and Scenes.warmup={self.warmup!r} must not be"
        f" negative, and Scenes.size={self.size!r} must be 56 to 2048 pixels."
      )

  def open(self) -> SceneRows:
    return SceneRows(self)

  def makes(self) -> tuple[str, ...]:
    return ("image", "prefix", "suffix", "task", "label", "boxes", "labels", "mask", "objects")


class SceneRows(files.Rows):
  """The rows of a `Scenes`. Picklable."""

  generated = True  # They have columns for every use, some of which a config does not read.

  def __init__(self, scenes: Scenes):
    self._spec = scenes

  def __len__(self) -> int:
    return self._spec.num_rows

  def _row(self, i: int) -> dict[str, Any]:
    s = self._spec
    rng = prng.generator(s.seed, zlib.crc32(s.split.encode()), i)
    simple = i < s.warmup
    task = "caption" if simple else s.tasks[i % len(s.tasks)]
    known = names(s.classes)
    while True:  # Mostly once; some draws lack room, or a clear order from left to right.
      cast = [known[c] for c in _cast(rng, task, len(known))][: 1 if simple else None]
      if len(cast) > s.most or len(set(cast)) > s.kinds:
        continue
      places = _place(rng, cast, s.size)
      boxes = [place.box for place in places]
      answer = _answer(task, cast, places, s.size) if len(places) == len(cast) else None
      if answer is not None:
        break
    label = "" if task == "caption" else cast[0]
    asked = boxes[:1] if task in ("detect", "segment") else []  # The first drawing is unique.
    mask = np.zeros((s.size, s.size), bool)
    if task == "segment":
      box = places[0].box
      mask[box.y_min : box.y_max, box.x_min : box.x_max] = places[0].sprite.mask
    return {
      "image": _render(rng, places, s.size),
      "prefix": PROMPTS[s.prompts][task].format(label),
      "suffix": answer,
      "task": task,
      "label": label,
      "boxes": tuple(_box(box, s.size) for box in asked),
      "labels": (label,) * len(asked),
      "mask": mask,
      "objects": tuple((name, _box(box, s.size)) for name, box in zip(cast, boxes, strict=True)),
    }

  def where(self, i: int) -> str:
    return f"scene {i} of {self._spec.split!r} (seed {self._spec.seed})"

  def fingerprint(self) -> str:
    """Changes when the rows may change."""
    content = repr(self._spec).encode() + fingerprint().encode()
    if "segment" in self._spec.tasks:
      content += mask_codec.EMBEDDED.read_bytes()
    return f"{zlib.crc32(content):08x}"


class PixelBox(NamedTuple):
  """The pixels y_min..y_max-1, x_min..x_max-1."""

  y_min: int
  x_min: int
  y_max: int
  x_max: int


class Place(NamedTuple):
  """A drawing and its top left corner in pixels."""

  sprite: Sprite
  y: int
  x: int

  @property
  def box(self) -> PixelBox:
    """The bounding box of the drawing's mask."""
    height, width = self.sprite.mask.shape
    return PixelBox(self.y, self.x, self.y + height, self.x + width)


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
      corner = round(int(chance_y * corners_y) * cell), round(int(chance_x * corners_x) * cell)
      place = Place(sprite, *corner)
      if not any(_overlap(place.box, other.box) for other in places):
        places.append(place)
        break
  return places


def _overlap(a: PixelBox, b: PixelBox) -> bool:
  rows_meet = a.y_min < b.y_max and b.y_min < a.y_max
  return rows_meet and a.x_min < b.x_max and b.x_min < a.x_max


def _render(rng: np.random.Generator, places: list[Place], size: int) -> np.ndarray:
  """The image, uint8[size, size, 3]."""
  image = _background(rng, size)
  for place in places:
    box = place.box
    patch = image[box.y_min : box.y_max, box.x_min : box.x_max]
    patch[...] = (patch * place.sprite.keep + place.sprite.paint) >> 8
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
  boxes = [place.box for place in places]
  if task == "count":
    return str(names.count(names[0]))
  if task == "detect":
    return loc.format_boxes([_box(boxes[0], size)], names[:1], bins=BINS)
  if task == "segment":
    mask = places[0].sprite.mask
    codes = _codes(mask.shape, np.packbits(mask).tobytes())
    return seg.format_segment(_box(boxes[0], size), codes, names[0], bins=BINS)
  drawings = list(zip(names, boxes, strict=True))
  leftmost = {name: min(_center(b) for n, b in drawings if n == name) for name in names}
  order = sorted(leftmost, key=leftmost.__getitem__)
  gaps = [leftmost[b] - leftmost[a] for a, b in itertools.pairwise(order)]
  if gaps and min(gaps) < _MIN_GAP * size / _NUM_CELLS:
    return None
  phrases = [_phrase(name, names.count(name)) for name in order]
  return " and ".join([p for p in (", ".join(phrases[:-1]), phrases[-1]) if p])


@functools.lru_cache(maxsize=4096)  # Few drawings in few sizes recur.
def _codes(shape: tuple[int, int], packed: bytes) -> tuple[int, ...]:
  """The codes of a mask of packed bits."""
  bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=shape[0] * shape[1])
  square = seg.to_square(bits.reshape(shape).astype(bool))
  return tuple(mask_codec.open_codec().encode(square[None])[0].tolist())


def _phrase(name: str, num: int) -> str:
  if num == 1:
    return ("an " if name[0] in "aeiou" else "a ") + name
  return f"{_NUMBERS[num]} {name}s"


def _center(box: PixelBox) -> float:
  return (box.x_min + box.x_max) / 2


def _box(box: PixelBox, size: int) -> tuple[float, ...]:
  return tuple(v / size for v in box)


DEMO = pathlib.Path(__file__).resolve().parent.parent / "assets" / "demo"
SPLITS = ("base", "heldout", "all")


class Sprite(NamedTuple):
  """A drawing that is blended as `(background * keep + paint) >> 8`.

  keep: uint16[h, w, 1], the background's part in 256ths.
  paint: uint16[h, w, 3], the drawing's colours times its opacity.
  mask: bool[h, w], the visible pixels; touches all four sides.
  """

  keep: np.ndarray
  paint: np.ndarray
  mask: np.ndarray


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
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  pixels, mask = pixels[inside], mask[inside]
  if flip:
    pixels, mask = pixels[:, ::-1], mask[:, ::-1]
  alpha = pixels[..., 3:].astype(np.uint16)
  paint = np.minimum(pixels[..., :3], pixels[..., 3:]).astype(np.uint16) * 256
  # 256 * color + (256 - alpha') * background stays below 2**16: alpha' is alpha stretched to 256.
  keep = (256 - (alpha + (alpha >> 7))).astype(np.uint16)
  return Sprite(keep, paint, np.ascontiguousarray(mask))


@functools.cache
def fingerprint() -> str:
  """Changes when the drawings or the names do."""
  content = (DEMO / "sprites.png").read_bytes() + (DEMO / "names.json").read_bytes()
  return f"{zlib.crc32(content):08x}"


@functools.cache
def _classes() -> tuple[dict, ...]:
  return tuple(json.loads((DEMO / "names.json").read_text(encoding="utf-8"))["classes"])


@functools.cache
def _atlas() -> np.ndarray:
  """uint8[H, W, 4]."""
  from PIL import Image

  with Image.open(DEMO / "sprites.png") as image:
    return np.asarray(image.convert("RGBA"))
