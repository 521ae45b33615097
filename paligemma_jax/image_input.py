"""Images as a caller has them (paths, bytes, PIL, arrays) to what the model takes."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from paligemma_jax.core import disk
from paligemma_jax.core import errors
from paligemma_jax.pp import decode
from paligemma_jax.pp import resize

_MAX_FILE_BYTES = 64 << 20
_NO_PNG = ("CMYK", "YCbCr", "HSV", "LAB")  # Modes of PIL that PNG cannot keep.
_SLACK = 1e-3  # How far floats may leave [-1, 1] by rounding.


def read(value: Any, res: int) -> np.ndarray:
  """uint8[R, R, 3], or [F, R, R, 3] from a list or a 4-D array; floats stay float32.

  Args:
    value: a path, the bytes of an image file, a PIL image, uint8[H, W, 3] of any size (resized as
      in training), float[R, R, 3] in [-1, 1], or several of those.
    res: R, pixels.

  Raises:
    DataError: the image cannot be read, or is float and of another size or range.
  """
  if isinstance(value, (list, tuple)):
    if not value:
      raise errors.DataError("An empty list of images.")
    return np.stack([read(item, res) for item in value])
  if isinstance(value, (str, os.PathLike)):
    pixels = _file(pathlib.Path(value))
  elif isinstance(value, (bytes, bytearray, memoryview)):
    pixels = decode.decode_image(bytes(value))
  elif isinstance(value, Image.Image):
    pixels = _pil(value)
  else:
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
      return _floats(array, res)
    pixels = decode.from_pixels(array)
  return resize.resize(pixels, (res, res), method="bilinear", antialias=True)


def check_range(image: np.ndarray) -> np.ndarray:
  """The image, unless it is float and leaves [-1, 1]: then a DataError."""
  if image.dtype != np.uint8 and image.size:
    low, high = float(image.min()), float(image.max())
    if not (-1 - _SLACK <= low and high <= 1 + _SLACK):
      raise errors.DataError(
          f"Float images are in [-1, 1]; this one has values from {low:.4g} to {high:.4g}. Pass"
          " uint8 for levels from 0 to 255."
      )
  return image


def _file(path: pathlib.Path) -> np.ndarray:
  try:
    if not path.is_file():
      raise errors.DataError(f"{path}: no such image file.")
    data = disk.read(path, max_bytes=_MAX_FILE_BYTES)
  except (OSError, ValueError) as e:
    why = getattr(e, "strerror", None) or e
    raise errors.DataError(f"{path}: cannot be read: {why}.") from None
  try:
    return decode.decode_image(data)
  except errors.DataError as e:
    raise errors.DataError(f"{path}: {e}") from None


def _pil(image: Image.Image) -> np.ndarray:
  if image.mode in ("RGB", "L"):
    return decode.from_pixels(np.asarray(image))
  if image.mode in _NO_PNG:
    return np.asarray(image.convert("RGB"))
  # Through the one decoder, so that alpha, palettes and 16 bits mean what they mean in files.
  buffer = io.BytesIO()
  image.save(buffer, "PNG")
  return decode.decode_image(buffer.getvalue())


def _floats(array: np.ndarray, res: int) -> np.ndarray:
  if array.ndim not in (3, 4) or array.shape[-3:] != (res, res, 3):
    raise errors.DataError(
        f"A float image must be [{res}, {res}, 3] already; found {list(array.shape)}. Pass uint8 to"
        " have it resized."
    )
  return check_range(array.astype(np.float32))
