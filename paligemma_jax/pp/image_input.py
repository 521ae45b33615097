"""A caller's images (paths, bytes, PIL, arrays) to the model's input."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageOps

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.core import strict_json
from paligemma_jax.pp import decode
from paligemma_jax.pp import resize

_MAX_FILE_BYTES = 64 << 20
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_NOT_IN_FILES = {  # Modes of PIL that no file can hold, and their replacements.
    "HSV": "RGB", "La": "LA", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA"
}  # fmt: skip
_SLACK = 1e-3  # How far floats may leave [-1, 1] by rounding.


def read(value: Any, res: int, *, exif: bool | str = True) -> np.ndarray:
  """uint8[R, R, 3], or [F, R, R, 3] from a list or a 4-D array; floats become float32.

  Args:
    value: a path, the bytes of an image file, an open binary file, a PIL image of any mode,
      uint8[H, W, 3] of any size (resized as in training), float[R, R, 3] in [-1, 1], or several of
      those.
    res: R, pixels.
    exif: turn images upright as their EXIF says; False leaves them as stored, except a TIFF whose
      pixels Pillow has already read. "auto" is True here.

  A DataError for what cannot be read, and for floats of another size or range.
  """
  if isinstance(value, (list, tuple)):
    if not value:
      raise errors.DataError("An empty list of images.")
    images = [read(item, res, exif=exif) for item in value]
    if len({image.dtype for image in images}) > 1:
      images = [x if x.dtype != np.uint8 else x.astype(np.float32) / 127.5 - 1 for x in images]
    return np.stack(images)
  found = pixels(value, exif=exif)
  if found.dtype == np.float32:
    if found.ndim not in (3, 4) or found.shape[-3:] != (res, res, 3):
      raise errors.DataError(
        f"A float image must be [{res}, {res}, 3] already; found {list(found.shape)}. Pass uint8"
        " to have it resized."
      )
    return check_range(found)
  return resize.resize(found, (res, res), method="bilinear", antialias=True)


def pixels(value: Any, *, exif: bool | str = True) -> np.ndarray:
  """uint8[H, W, 3], the image at its own size; floats, which may be of any shape, as float32.

  Arguments and errors as of `read`, without lists.
  """
  upright = bool(exif)
  if isinstance(value, (str, os.PathLike)):
    return _file(pathlib.Path(value), upright)
  if isinstance(value, (bytes, bytearray, memoryview)):
    return decode.decode_image(bytes(value), exif=upright)
  if isinstance(value, Image.Image):
    return _pil(value, upright)
  if hasattr(value, "read"):
    return decode.decode_image(_content(value), exif=upright)
  array = np.asarray(value)
  if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
    return array.astype(np.float32)
  return decode.from_pixels(array)


def is_one(value: Any) -> bool:
  """True for a single image, False for a list of images or an array of four dimensions."""
  if isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
    return True
  return hasattr(value, "read") or getattr(value, "ndim", 0) in (2, 3)


def form(value: Any) -> tuple[int, bool]:
  """(number of images, whether their pixels are floats), which must be equal within a batch.

  The number is 0 for None and -1 for a single image. No file is read.
  """
  if value is None:
    return 0, False
  if isinstance(value, (list, tuple)):
    return len(value), any(form(item)[1] for item in value)
  is_array = not is_one(value) or hasattr(value, "dtype")
  array = np.asarray(value) if is_array else None
  if array is None or array.dtype == object:
    return -1, False
  num_images = array.shape[0] if array.ndim == 4 else -1
  return num_images, np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"


def check_range(image: np.ndarray) -> np.ndarray:
  """The image; DataError when it is float and exceeds [-1, 1]."""
  if image.dtype != np.uint8 and image.size:
    low, high = float(image.min()), float(image.max())
    if not (-1 - _SLACK <= low and high <= 1 + _SLACK):
      raise errors.DataError(
        f"Float images are in [-1, 1]; this one has values from {low:.4g} to {high:.4g}. Pass"
        " uint8 for levels from 0 to 255."
      )
  return image


def _file(path: pathlib.Path, upright: bool) -> np.ndarray:
  try:
    data = atomic_io.read(path, max_bytes=_MAX_FILE_BYTES)
  except FileNotFoundError:
    raise errors.DataError(f"{path}: no such image file.") from None
  except (OSError, ValueError) as e:
    raise errors.DataError(f"{path}: cannot be read: {strict_json.reason(e)}.") from None
  try:
    return decode.decode_image(data, exif=upright)
  except errors.DataError as e:
    raise errors.DataError(f"{path}: {e}") from None


def _content(file: Any) -> bytes:
  """The rest of an open file; all of it when it was read to its end."""
  try:
    data = file.read(_MAX_FILE_BYTES + 1)
    if not data and hasattr(file, "seek"):
      file.seek(0)
      data = file.read(_MAX_FILE_BYTES + 1)
  except (OSError, ValueError) as e:
    raise errors.DataError(f"The image file {file!r} cannot be read: {e}.") from None
  if not isinstance(data, bytes):
    raise errors.DataError(f"The image file {file!r} is not in binary mode; open it with 'rb'.")
  if len(data) > _MAX_FILE_BYTES:
    raise errors.DataError(f"The image file {file!r} has more than {_MAX_FILE_BYTES} bytes.")
  return data


def _pil(image: Image.Image, upright: bool) -> np.ndarray:
  if (data := _unread(image)) is not None:
    return decode.decode_image(data, exif=upright)
  try:
    image.load()
  except (OSError, ValueError, SyntaxError) as e:  # From a damaged file.
    raise errors.DataError(f"{image!r} cannot be read: {type(e).__name__}: {e}.") from None
  try:
    image = ImageOps.exif_transpose(image) if upright else image.copy()
  except Exception:  # A damaged EXIF block says nothing about the pixels.
    image = image.copy()
  if image.mode in ("RGB", "L"):
    return decode.from_pixels(np.asarray(image))
  if image.mode.startswith("I;16"):  # Of any byte order; Pillow's own conversion would clip.
    return decode.from_pixels(np.asarray(image).astype(np.uint16))
  # As a file, so that alpha, palettes and 16 bits are treated as in files.
  image.info.pop("exif", None)
  buffer = io.BytesIO()
  try:
    if image.mode in _NOT_IN_FILES:
      image = image.convert(_NOT_IN_FILES[image.mode])
    image.save(buffer, "PNG" if image.mode in _PNG_MODES else "TIFF")
  except (OSError, ValueError) as e:
    raise errors.DataError(
      f"A PIL image of mode {image.mode!r} cannot be read ({e}); pass image.convert('RGB')."
    ) from None
  return decode.decode_image(buffer.getvalue(), exif=upright)


def _unread(image: Image.Image) -> bytes | None:
  """The file of a PIL image whose pixels were not read yet, else None.

  Pillow's pixels of a JPEG differ from those of `decode`, which training uses.
  """
  file = getattr(image, "fp", None)
  if file is None or not getattr(image, "tile", None) or getattr(image, "_im", None) is not None:
    return None
  if image.format not in image_files.FORMATS or (hasattr(image, "tell") and image.tell()):
    return None
  try:
    place = file.tell()
    file.seek(0)
    data = file.read(_MAX_FILE_BYTES + 1)
    file.seek(place)
  except (OSError, ValueError, AttributeError):
    return None
  return data if len(data) <= _MAX_FILE_BYTES else None
