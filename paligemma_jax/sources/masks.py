"""Generated masks to train codecs: embedded drawings, polygons and ellipses."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import prng
from paligemma_jax.core import spec
from paligemma_jax.sources import files
from paligemma_jax.sources import scenes

_SIDES = (24, 73)  # Pixels of a mask's longer side before it is rotated and cut.
_LEAST = 8  # Pixels of both sides afterwards.


@spec.spec
class Masks:
  """Masks of single objects, each cropped to its bounding box.

  Columns: mask bool[H, W] and label: a drawing's name, "polygon" or "ellipse". A row is a pure
  function of (spec, row number).

  Attributes:
    split: a name; splits have no mask in common.
    num_rows: the number of rows.
    classes: the drawings: base (64), heldout (12 others) or all.
    simple: the fraction of polygons and ellipses, 0 to 1.
    vary: mirrors, rotates by up to 20 degrees, and hides a part of every third mask; False gives
      the drawings as they are, in order.
    seed: masks differ by seed.
  """

  split: str = "train"
  num_rows: int = 1000
  classes: str = "base"
  simple: float = 0.25
  vary: bool = True
  seed: int = 0

  def __post_init__(self):
    errors.pick(dict.fromkeys(scenes.SPLITS), self.classes, "Masks.classes")
    if self.num_rows < 0 or not 0 <= self.simple <= 1:
      raise errors.ConfigError(
        f"Masks.num_rows={self.num_rows!r} must not be negative, and Masks.simple="
        f"{self.simple!r} must be 0 to 1."
      )

  def open(self) -> MaskRows:
    return MaskRows(self)

  def makes(self) -> tuple[str, ...]:
    return ("mask", "label")


class MaskRows(files.Rows):
  """The rows of a `Masks`. Picklable."""

  generated = True  # They have columns for every use, some of which a config does not read.

  def __init__(self, masks: Masks):
    self._spec = masks

  def __len__(self) -> int:
    return self._spec.num_rows

  def _row(self, i: int) -> dict[str, Any]:
    s = self._spec
    rng = prng.generator(s.seed, zlib.crc32(s.split.encode()), i)
    names = scenes.names(s.classes)
    while True:  # Mostly once; a rotated or cut mask may be too small.
      label = names[i % len(names)]
      if rng.random() < s.simple:
        label = "polygon" if rng.random() < 0.5 else "ellipse"
        mask = _polygon(rng) if label == "polygon" else _ellipse(rng)
      else:
        side = int(rng.integers(*_SIDES))
        mask = scenes.get(label, side=side, flip=bool(s.vary and rng.random() < 0.5)).mask
      if s.vary:
        mask = _cut(rng, _rotate(rng, mask))
      mask = _tight(mask)
      if min(mask.shape) >= _LEAST:
        return {"mask": mask, "label": label}

  def where(self, i: int) -> str:
    return f"mask {i} of {self._spec.split!r} (seed {self._spec.seed})"

  def fingerprint(self) -> str:
    """Changes when the rows may change."""
    content = repr(self._spec).encode() + scenes.fingerprint().encode()
    return f"{zlib.crc32(content):08x}"


def _polygon(rng: np.random.Generator) -> np.ndarray:
  """bool[H, W]: 3 to 8 corners around a centre, at random distances."""
  from PIL import Image  # Here, so that importing a source stays cheap.
  from PIL import ImageDraw

  side = int(rng.integers(*_SIDES))
  angles = np.sort(rng.random(int(rng.integers(3, 9)))) * (2 * math.pi)
  radii = rng.uniform(0.3, 1.0, len(angles)) * side / 2
  corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + side / 2
  image = Image.new("1", (side, side))
  ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
  return np.asarray(image)


def _ellipse(rng: np.random.Generator) -> np.ndarray:
  """bool[H, W]: random axes and direction."""
  side = int(rng.integers(*_SIDES))
  angle = rng.random() * math.pi
  radii = rng.uniform(0.25, 1.0, 2) * side / 2
  y, x = np.indices((side, side)) + 0.5 - side / 2
  along = (math.cos(angle) * x + math.sin(angle) * y) / radii[0]
  across = (math.cos(angle) * y - math.sin(angle) * x) / radii[1]
  return along**2 + across**2 <= 1


def _rotate(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
  from PIL import Image

  angle = rng.uniform(-20, 20) * (rng.random() < 0.5)
  return np.asarray(Image.fromarray(mask).rotate(angle, expand=True)) if angle else mask


def _cut(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
  """Every third mask loses up to half of its height or width."""
  if rng.random() >= 1 / 3:
    return mask
  axis, keep = int(rng.integers(2)), rng.uniform(0.5, 1.0)
  length = max(1, round(mask.shape[axis] * keep))
  start = int(rng.integers(mask.shape[axis] - length + 1))
  return mask[start : start + length] if axis == 0 else mask[:, start : start + length]


def _tight(mask: np.ndarray) -> np.ndarray:
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if not len(rows):
    return mask[:0, :0]
  return np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
