"""Resizing as TensorFlow does it or as Hugging Face's processor does it, and random crops."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from PIL import Image

from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns

METHODS = ("bilinear", "bicubic", "area", "hf_bicubic")

_STRIP = 128  # Columns resized together.
_BLOCK = 32  # Rows transposed together.


@spec_lib.spec
class Resize(columns.Op):
  """Image to `size`, without keeping its aspect ratio.

  "bilinear", "bicubic" and "area" are the reference's: float32 weights, then clip and truncate (not
  round) to uint8. "hf_bicubic" is Pillow's bicubic, which transformers uses for PaliGemma.

  Attributes:
    size: side of the result, or (height, width).
    method: one of METHODS.
    antialias: widen the kernel when shrinking, as half of the reference's transfers do.
      "hf_bicubic" always does; "area" has no kernel.
    key: the column: one image, or a list of images, which becomes frames, uint8[F, R, R, 3].
  """

  size: int | tuple
  method: str = "bilinear"
  antialias: bool = True
  key: str = "image"

  writes = ("key",)
  choices = (("method", METHODS),)

  def __post_init__(self):
    super().__post_init__()
    for side in _pair(self.size):
      if not isinstance(side, int) or side < 1:
        raise errors.ConfigError(f"size of Resize is {self.size!r}: expected pixels.")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value, size = row.get(self.key), _pair(self.size)
    resized = functools.partial(resize, size=size, method=self.method, antialias=self.antialias)
    if isinstance(value, (list, tuple)) and value:
      frames = [columns.image({self.key: item}, self.key) for item in value]
      _check_size(size, len(frames))
      return {**row, self.key: np.stack([resized(frame) for frame in frames])}
    return {**row, self.key: resized(columns.image(row, self.key))}


@spec_lib.spec
class ResizeSmall(columns.Op):
  """Image with its shorter side of `size` pixels, its aspect ratio kept; options as in Resize."""

  size: int
  method: str = "bilinear"
  antialias: bool = True
  key: str = "image"

  writes = ("key",)
  choices = (("method", METHODS),)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.key)
    height, width = image.shape[-3:-1]
    shorter = min(height, width)
    # In float32, as in TensorFlow: 3.5 may be a little more or less.
    factor = np.float32(self.size) / np.float32(shorter)
    new_height, new_width = (int(np.round(np.float32(v) * factor)) for v in (height, width))
    size = new_height, new_width
    _check_size(size, image.shape[0] if image.ndim == 4 else 1)
    return {**row, self.key: resize(image, size, method=self.method, antialias=self.antialias)}


@spec_lib.spec
class StackImages(columns.Op):
  """The images in the columns `keys`, of equal size, as frames in `out`, uint8[F, R, R, 3]."""

  keys: tuple
  out: str = "image"

  reads = ("keys",)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    images = [columns.image(row, key) for key in self.keys]
    if len({image.shape for image in images}) != 1:
      shapes = ", ".join(str(list(image.shape)) for image in images)
      raise errors.DataError(f"images of different shapes cannot be stacked: {shapes}.")
    return {**row, self.out: np.stack(images)}


def resize(image: np.ndarray, size: tuple[int, int], *, method: str, antialias: bool) -> np.ndarray:
  """uint8[..., height, width, 3]: uint8[..., H, W, 3] resized to `size`, (height, width)."""
  if image.ndim == 4:
    return np.stack([resize(i, size, method=method, antialias=antialias) for i in image])
  if image.shape[:2] == tuple(size):
    return image
  if method == "hf_bicubic":
    resample = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample))
  (in_h, in_w), (out_h, out_w) = image.shape[:2], size
  # Rows first, as in TensorFlow. Each product sums over the leading axis of a flat array; the first
  # is computed in strips whose results stay in the processor's cache.
  rows = image_files.resize_matrix(in_h, out_h, method, antialias)
  x = np.empty((in_w, out_h, 3), np.float32)
  for left in range(0, in_w, _STRIP):
    strip = image[:, left : left + _STRIP].astype(np.float32).reshape(in_h, -1)
    _transpose((rows @ strip).reshape(out_h, -1, 3), x[left : left + _STRIP])
  x = image_files.resize_matrix(in_w, out_w, method, antialias) @ x.reshape(in_w, out_h * 3)
  if method != "bilinear":  # Bilinear weights are positive and cannot leave the range.
    x = x.clip(0, 255)
  out = np.empty((out_h, out_w, 3), np.uint8)
  _transpose(x.astype(np.uint8).reshape(out_w, out_h, 3), out)
  return out


def _transpose(x: np.ndarray, out: np.ndarray) -> None:
  """out[j, i, c] = x[i, j, c]; by channel and block, which is four times as fast."""
  for top in range(0, len(x), _BLOCK):
    for channel in range(3):
      out[:, top : top + _BLOCK, channel] = x[top : top + _BLOCK, :, channel].T


def _check_size(size: tuple[int, int], num: int) -> None:
  """DataError where `num` images of the size exceed the limit of a row."""
  if num * size[0] * size[1] > columns.MAX_ROW_PIXELS:
    raise errors.DataError(
      f"{num} of {size[1]} x {size[0]} pixels after the resize; a row may have"
      f" {columns.MAX_ROW_PIXELS} pixels in all."
    )


def _pair(size: int | tuple) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else tuple(size)


_NUM_ATTEMPTS = 100


@spec_lib.spec
class RandomCrop(columns.Op):
  """A random square of `size` pixels, the same for all frames; a smaller image is a DataError."""

  size: int
  key: str = "image"

  writes = ("key",)
  draws_image = True

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
class InceptionCrop(columns.Op):
  """A random crop of the image, resized to `size`.

  The crop's area is uniform, its aspect ratio (width / height) log-uniform; when none of 100 draws
  fits, the whole image is taken.

  Attributes:
    size: side of the result in pixels.
    area: least and greatest area, in percent of the image's.
    ratio: least and greatest aspect ratio.
    method, antialias, key: as in Resize.
  """

  size: int
  area: tuple = (5.0, 100.0)
  ratio: tuple = (3 / 4, 4 / 3)
  method: str = "bilinear"
  antialias: bool = True
  key: str = "image"

  writes = ("key",)
  choices = (("method", METHODS),)
  draws_image = True

  def __post_init__(self):
    super().__post_init__()
    low, high = self.area
    if not 0 < low <= high <= 100 or not 0 < self.ratio[0] <= self.ratio[1]:
      raise errors.ConfigError(
        f"InceptionCrop: area {self.area!r} (percent) and ratio {self.ratio!r} must be"
        " (least, greatest), positive."
      )

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.key)
    crop = _cut(image, *self._draw(image.shape[-3:-1], rng))
    out = resize(crop, _pair(self.size), method=self.method, antialias=self.antialias)
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
