"""Image files before decoding: format, size and orientation; and the matrices of a resize.

Sources read the size of an image and row ops its pixels, both with these functions.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import file_checks

if TYPE_CHECKING:
  import scipy.sparse
  from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"
)  # fmt: skip
# Of image formats that are not read; errors about a folder mention them.
OTHER_ENDINGS = (
    ".avif", ".heic", ".heif", ".svg", ".jxl", ".jp2", ".j2k", ".psd", ".ico", ".tga", ".exr",
    ".dng", ".cr2", ".nef", ".arw", ".ppm", ".pgm", ".mpo",
)  # fmt: skip

EXIF = "_exif"  # The column by which a source says that boxes and masks are of the upright image.

_ORIENTATION = 0x0112


class Header(NamedTuple):
  """The header of an image file: height and width in pixels as stored, and EXIF orientation.

  The orientation is 1 to 8; 1 is as stored, and the value where EXIF is missing or unreadable.
  """

  height: int
  width: int
  orientation: int

  def size(self, *, exif: bool) -> tuple[int, int]:
    """(height, width), upright by EXIF or as stored."""
    if exif and self.orientation >= 5:
      return self.width, self.height
    return self.height, self.width


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
  """The image of a file, not decoded yet.

  Texts and color profiles of a PNG, which may be of any size, are left out. A DataError for no
  complete file of a format in FORMATS, and where the block finds damage.
  """
  from PIL import Image  # Here, so that configs load fast.

  try:
    file_checks.check(data)
    with Image.open(io.BytesIO(file_checks.without_texts(data)), formats=FORMATS) as im:
      yield im
  except Image.UnidentifiedImageError:
    raise errors.DataError(unknown(data)) from None
  except Image.DecompressionBombError as e:
    raise errors.DataError(f"the image is too large: {e}.") from None
  except (errors.DataError, MemoryError):
    raise
  except Exception as e:  # Pillow's readers raise many types.
    raise errors.DataError(f"the image is damaged: {type(e).__name__}: {e}.") from None


def header(data: bytes) -> Header:
  """The header of an image file; DataError for a damaged one and for formats not in FORMATS."""
  with opened(data) as im:
    turned = orientation(im, data) or 1
    if im.format == "TIFF" and turned >= 5:  # Pillow gives its upright size.
      return Header(im.width, im.height, turned)
    return Header(im.height, im.width, turned)


def orientation(im: Image.Image, data: bytes) -> int | None:
  """The EXIF orientation, 1 to 8, of an image not decoded yet; None where EXIF is unreadable."""
  try:
    if im.format == "PNG" and "exif" not in im.info and not file_checks.png_says_orientation(data):
      return 1  # Pillow would decode the whole image to find it.
    raw = im.info.get("Raw profile type exif") if "exif" not in im.info else None
    if raw is not None:  # ImageMagick writes hexadecimal digits, below three lines.
      file_checks.check_tags(bytes.fromhex("".join(raw.split("\n")[3:])))
    found = im.getexif().get(_ORIENTATION, 1)
  except Exception:  # A damaged EXIF block does not make the pixels bad.
    return None
  return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turned(pixels: Any, orientation: int) -> Any:
  """The array [H, W, …], turned upright; a view."""
  if orientation in (3, 4, 6, 7):
    pixels = pixels[::-1]
  if orientation in (2, 3, 7, 8):
    pixels = pixels[:, ::-1]
  return pixels.swapaxes(0, 1) if orientation >= 5 else pixels


def unknown(data: bytes) -> str:
  """Why a file is of no format in FORMATS, and the remedy."""
  known = ", ".join(FORMATS)
  found, remedy = file_checks.unread_format(data)
  if found:
    return f"no image of {known} but {found}. {remedy}."
  return f"no image of {known}: starts with {data[:12]!r}."


_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


@functools.lru_cache(maxsize=512)
def resize_matrix(
  in_len: int, out_len: int, method: str, antialias: bool
) -> scipy.sparse.csr_matrix:
  """float32[out_len, in_len] that resizes one axis; shared between callers, not to be changed."""
  import scipy.sparse  # Here, so that configs load fast: it takes 0.1 s.

  f32 = np.float32
  if method == "area":
    return scipy.sparse.csr_matrix(_shares(in_len, out_len))
  inverse_scale = f32(1.0 / (f32(out_len) / f32(in_len)))
  kernel_scale = max(inverse_scale, f32(1)) if antialias else f32(1)
  radius = f32(_RADIUS[method]) * kernel_scale
  centre = (np.arange(out_len, dtype=f32) + f32(0.5)) * inverse_scale
  first = np.maximum(np.ceil(centre - radius - f32(0.5)), 0).astype(np.int64)
  last = np.minimum(np.floor(centre + radius - f32(0.5)), in_len - 1).astype(np.int64)
  num_taps = int(np.max(last - first)) + 1
  taps = first[:, None] + np.arange(num_taps)
  distance = np.abs(taps.astype(f32) + f32(0.5) - centre[:, None]) * (f32(1) / kernel_scale)
  weights = np.where(taps <= last[:, None], _kernel(method, distance), f32(0)).astype(f32)
  total = np.zeros(out_len, f32)
  for tap in range(num_taps):  # In order, which numpy's sum does not promise.
    total += weights[:, tap]
  weights *= (f32(1) / total)[:, None]
  used = taps <= last[:, None]
  starts = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
  return scipy.sparse.csr_matrix((weights[used], taps[used], starts), shape=(out_len, in_len))


def _shares(in_len: int, out_len: int) -> np.ndarray:
  """float32[out_len, in_len]: the share of each output pixel that each input pixel covers."""
  f32 = np.float32
  scale = f32(in_len) / f32(out_len)
  begin = (np.arange(out_len, dtype=f32) * scale)[:, None]
  end = (np.arange(1, out_len + 1, dtype=f32) * scale)[:, None]
  pixel = np.arange(in_len, dtype=f32)
  covered = np.minimum(end, pixel + 1) - np.maximum(begin, pixel)
  return np.maximum(covered, f32(0)) / scale


def _kernel(method: str, x: np.ndarray) -> np.ndarray:
  one = np.float32(1)
  if method == "bilinear":
    return np.maximum(one - x, 0)
  near = ((np.float32(1.5) * x - np.float32(2.5)) * x) * x + one  # Keys, 1981, with a = -1/2.
  far = ((np.float32(-0.5) * x + np.float32(2.5)) * x - np.float32(4)) * x + np.float32(2)
  return np.where(x >= 2, 0, np.where(x >= 1, far, near))
