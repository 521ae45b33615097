"""Rows made on the spot: scenes of emoji drawings with captions, counts and boxes known exactly.

A row is a pure function of (spec, row number): nothing is stored but the drawings, and every number
of rows is available at once. One scene takes less than half a millisecond at 112 pixels.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import numpy as np

from paligemma_jax.core import draws
from paligemma_jax.core import errors
from paligemma_jax.core import loc
from paligemma_jax.core import spec
from paligemma_jax.sources import sprites

# What is asked, by style. "demo" is worded so that no model trained on "pretrain" has seen it.
PROMPTS: Mapping[str, Mapping[str, str]] = {
    "pretrain": {"caption": "caption en", "count": "count {}", "detect": "detect {}"},
    "demo": {
        "caption": "describe the picture",
        "count": "how many {}s are there?",
        "detect": "where is the {}?",
    },
}
TASKS = ("caption", "count", "detect")
BINS = 1024  # The published demos' convention of loc tokens (see core/loc.py).

_UNIT = 112  # Sizes below are pixels of a scene this large; other scenes are scaled.
_MIN_SIDE = 24
_MAX_SIDE = (0, 48, 48, 44, 38, 34)  # Longer side of a drawing, by the number of drawings.
_SIDE_STEP = 2
_MAX_OVERLAP = 0.06  # Share of the smaller of two drawings' boxes.
_MIN_GAP = 8  # Between the centres of what a caption orders from left to right.
_NUMBERS = ("no", "a", "two", "three", "four", "five")


@spec.spec
class Scenes:
  """Scenes of 1 to 5 drawings, a question about each, and its answer.

  Columns: image uint8[size, size, 3], prefix, suffix, task, label (the class asked about, else ''),
  boxes and labels (what `suffix` says of a detect row, else empty), objects: all drawings of the
  scene as (label, box). A box is (y_min, x_min, y_max, x_max) of the pixels that can be seen, as
  shares of the image. Captions name what is there from left to right; equal drawings are named
  together, at the place of the leftmost.

  Attributes:
    split: names a stream of scenes of its own: "train", "val" and so on share none.
    num_rows: how many.
    tasks: out of caption, count and detect, taken in turns.
    classes: which drawings: base (64), heldout (12 others) or all.
    prompts: the wording of the questions, pretrain or demo.
    size: the image's side in pixels.
    seed: another seed, other scenes.
  """

  split: str = "train"
  num_rows: int = 1000
  tasks: tuple = TASKS
  classes: str = "base"
  prompts: str = "pretrain"
  size: int = _UNIT
  seed: int = 0

  def __post_init__(self):
    if not self.tasks:
      raise errors.ConfigError(f"Scenes.tasks is empty; name some of {', '.join(TASKS)}.")
    for task in self.tasks:
      errors.pick(dict.fromkeys(TASKS), task, "task of Scenes.tasks")
    errors.pick(dict.fromkeys(sprites.SPLITS), self.classes, "Scenes.classes")
    errors.pick(PROMPTS, self.prompts, "Scenes.prompts")
    if self.num_rows < 0 or not 56 <= self.size <= 2048:
      raise errors.ConfigError(
          f"Scenes.num_rows={self.num_rows!r} must not be negative and Scenes.size={self.size!r}"
          " must be 56 to 2048 pixels."
      )

  def open(self) -> SceneRows:
    """The rows, by number."""
    return SceneRows(self)

  def makes(self) -> tuple[str, ...]:
    """The keys of every row."""
    return ("image", "prefix", "suffix", "task", "label", "boxes", "labels", "objects")


class SceneRows:
  """The rows of a `Scenes`; holds nothing but the spec, so it can be sent to workers."""

  def __init__(self, scenes: Scenes):
    self._spec = scenes

  def __len__(self) -> int:
    return self._spec.num_rows

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    s = self._spec
    rng = draws.generator(s.seed, zlib.crc32(s.split.encode()), i)
    task = s.tasks[i % len(s.tasks)]
    names = sprites.names(s.classes)
    while True:  # Most often once; some draws have no room, or no clear order from left to right.
      cast = _cast(rng, task, len(names))
      places = _place(rng, [names[c] for c in cast], s.size)
      if places is None:
        continue
      image, boxes = _render(rng, places, s.size)
      answer = _answer(task, [names[c] for c in cast], boxes, s.size)
      if answer is not None:
        break
    label = "" if task == "caption" else names[cast[0]]
    asked = [box for c, box in zip(cast, boxes, strict=True) if task == "detect" and c == cast[0]]
    return {
        "image": image,
        "prefix": PROMPTS[s.prompts][task].format(label),
        "suffix": answer,
        "task": task,
        "label": label,
        "boxes": tuple(_shares(box, s.size) for box in sorted(asked, key=_center)),
        "labels": (label,) * len(asked),
        "objects": tuple(
            (names[c], _shares(box, s.size)) for c, box in zip(cast, boxes, strict=True)
        ),
    }

  def where(self, i: int) -> str:
    """What to call a row in a message."""
    return f"scene {i} of {self._spec.split!r} (seed {self._spec.seed})"

  def fingerprint(self) -> str:
    """Changes when the rows may change."""
    content = repr(self._spec).encode() + sprites.fingerprint().encode()
    return f"{zlib.crc32(content):08x}"


class Place(NamedTuple):
  """A drawing and where it goes: its top left corner in pixels."""

  sprite: sprites.Sprite
  y: int
  x: int


class PixelBox(NamedTuple):
  """Visible pixels y_min..y_max-1, x_min..x_max-1."""

  y_min: int
  x_min: int
  y_max: int
  x_max: int


def _cast(rng: np.random.Generator, task: str, num_classes: int) -> list[int]:
  """The class of each drawing; what is asked about comes first.

  Half of the scenes to caption or to search are simple ones, from which the rest is learned.
  """
  classes = [int(c) for c in rng.permutation(num_classes)[:5]]
  simple = rng.random() < 0.5
  if task == "caption":  # 1 to 3 groups, 4 drawings at most.
    num_groups = int(rng.choice(3, p=(0.5, 0.3, 0.2))) + 1
    num_more = 0 if simple else int(rng.integers(0, 5 - num_groups))
    groups = list(range(num_groups)) + [int(g) for g in rng.integers(0, num_groups, num_more)]
    return [classes[g] for g in groups]
  if task == "count":  # Every number as often as the others; the rest is distraction.
    num = int(rng.integers(1, 5))
    others = int(rng.integers(0, 6 - num))
    return [classes[0]] * num + [classes[1 + int(g)] for g in rng.integers(0, 2, others)]
  others = 0 if simple else int(rng.integers(1, 4))
  return [classes[0]] + classes[1 : 1 + others]


def _place(rng: np.random.Generator, names: list[str], size: int) -> list[Place] | None:
  """Random sizes, flips and places with little overlap, or None where there was no room."""
  num = len(names)
  steps = (_MAX_SIDE[num] - _MIN_SIDE) // _SIDE_STEP
  sides = _MIN_SIDE + _SIDE_STEP * rng.integers(0, steps + 1, num)
  flips = rng.random(num) < 0.5
  chances = rng.random((num, 16, 2))
  places: list[Place] = []
  for i in range(num):
    side = round(int(sides[i]) * size / _UNIT)
    sprite = sprites.get(names[i], side=side, flip=bool(flips[i]))
    height, width = sprite.mask.shape
    for chance_y, chance_x in chances[i]:
      y, x = int(chance_y * (size - height + 1)), int(chance_x * (size - width + 1))
      if all(_overlap(y, x, height, width, p) <= _MAX_OVERLAP for p in places):
        places.append(Place(sprite, y, x))
        break
    else:
      return None
  return places


def _overlap(y: int, x: int, height: int, width: int, other: Place) -> float:
  """Share of the smaller box that the two boxes have in common."""
  other_height, other_width = other.sprite.mask.shape
  rows = min(y + height, other.y + other_height) - max(y, other.y)
  columns = min(x + width, other.x + other_width) - max(x, other.x)
  if rows <= 0 or columns <= 0:
    return 0.0
  return rows * columns / min(height * width, other_height * other_width)


def _render(
    rng: np.random.Generator, places: list[Place], size: int
) -> tuple[np.ndarray, list[PixelBox]]:
  """The image, uint8[size, size, 3], and the box of what can be seen of each drawing."""
  image = _background(rng, size)
  owner = np.full((size, size), -1, np.int8)
  for i, (sprite, y, x) in enumerate(places):
    height, width = sprite.mask.shape
    patch = image[y : y + height, x : x + width]
    patch[...] = (patch * sprite.keep + sprite.paint) >> 8
    owner[y : y + height, x : x + width][sprite.mask] = i
  boxes = []
  for i, (sprite, y, x) in enumerate(places):
    height, width = sprite.mask.shape
    visible = owner[y : y + height, x : x + width] == i
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    boxes.append(
        PixelBox(y + int(rows[0]), x + int(columns[0]), y + int(rows[-1]) + 1,
                 x + int(columns[-1]) + 1)
    )  # fmt: skip
  brightness = rng.uniform(0.7, 1.15)
  return np.minimum(np.arange(256) * brightness, 255).astype(np.uint8)[image], boxes


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
  """uint8[size, size, 3]: a light colour, plain or running into another from side to side.

  With dark or patterned backgrounds the tiny model, trained from scratch, learns nothing from
  25 000 scenes; with light ones it names drawings after 10 000.
  """
  first, second = rng.uniform(200, 255, (2, 3))
  share = np.linspace(0, 1, size)[:, None] * (rng.random() < 0.5)
  line = (first + share * (second - first)).astype(np.uint8)
  line = line[:, None] if rng.random() < 0.5 else line[None]
  return np.ascontiguousarray(np.broadcast_to(line, (size, size, 3)))


def _answer(task: str, names: list[str], boxes: list[PixelBox], size: int) -> str | None:
  """The suffix, or None where the scene leaves it open."""
  if task == "count":
    return str(names.count(names[0]))
  if task == "detect":
    asked = [_shares(b, size) for n, b in zip(names, boxes, strict=True) if n == names[0]]
    return loc.format_boxes(asked, [names[0]] * len(asked), bins=BINS)
  drawings = list(zip(names, boxes, strict=True))
  leftmost = {name: min(_center(b) for n, b in drawings if n == name) for name in names}
  order = sorted(leftmost, key=leftmost.__getitem__)
  gaps = [leftmost[b] - leftmost[a] for a, b in itertools.pairwise(order)]
  if gaps and min(gaps) < _MIN_GAP * size / _UNIT:
    return None
  phrases = [_phrase(name, names.count(name)) for name in order]
  return " and ".join([p for p in (", ".join(phrases[:-1]), phrases[-1]) if p])


def _phrase(name: str, num: int) -> str:
  if num == 1:
    return ("an " if name[0] in "aeiou" else "a ") + name
  return f"{_NUMBERS[num]} {name}s"


def _center(box: PixelBox) -> float:
  return (box.x_min + box.x_max) / 2


def _shares(box: PixelBox, size: int) -> tuple[float, ...]:
  return tuple(v / size for v in box)
