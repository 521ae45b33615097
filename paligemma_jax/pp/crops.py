"""Random crops. What they draw depends on (seed, epoch, row) alone. They do not move boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns
from paligemma_jax.pp import resize

_NUM_ATTEMPTS = 100


@spec_lib.spec
class RandomCrop:
  """A square of `size` pixels from anywhere in the image; all frames are cut alike.

  Attributes:
    size: its side; a smaller image is a DataError (ResizeSmall comes first).
    key: the column.
  """

  size: int
  key: str = "image"

  draws_image = True

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.key,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.key)
    height, width = image.shape[-3:-1]
    if min(height, width) < self.size:
      raise errors.DataError(
        f"column {self.key!r}: {height} x {width} is too small for a crop of {self.size}."
      )
    y = int(rng.integers(height - self.size + 1))
    x = int(rng.integers(width - self.size + 1))
    return {**row, self.key: _cut(image, y, x, self.size, self.size)}


@spec_lib.spec
class InceptionCrop:
  """A random part of the image, resized to `size`.

  The part's area is a uniform share of the image's, its aspect ratio (width / height) log-uniform;
  when nothing of that kind fits, the whole image is taken.

  Attributes:
    size: side of the result in pixels.
    area: least and greatest area, in percent.
    ratio: least and greatest aspect ratio.
    method, antialias, key: as in Resize.
  """

  size: int
  area: tuple = (5.0, 100.0)
  ratio: tuple = (3 / 4, 4 / 3)
  method: str = "bilinear"
  antialias: bool = True
  key: str = "image"

  draws_image = True

  def __post_init__(self):
    errors.pick(dict.fromkeys(resize.METHODS), self.method, "method of InceptionCrop")
    low, high = self.area
    if not 0 < low <= high <= 100 or not 0 < self.ratio[0] <= self.ratio[1]:
      raise errors.ConfigError(
        f"InceptionCrop: area {self.area!r} (percent) and ratio {self.ratio!r} must be"
        " (least, greatest), positive."
      )

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.key,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.key)
    part = _cut(image, *self._draw(image.shape[-3:-1], rng))
    size = (self.size, self.size)
    out = resize.resize(part, size, method=self.method, antialias=self.antialias)
    return {**row, self.key: out}

  def _draw(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = shape
    low, high = (math.log(r) for r in self.ratio)
    for _ in range(_NUM_ATTEMPTS):
      area = rng.uniform(self.area[0], self.area[1]) / 100 * height * width
      ratio = math.exp(rng.uniform(low, high))
      h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
      if 0 < h <= height and 0 < w <= width:
        return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width


def _cut(image: np.ndarray, y: int, x: int, height: int, width: int) -> np.ndarray:
  return np.ascontiguousarray(image[..., y : y + height, x : x + width, :])
