"""Image files before a pixel is decoded: their format, their size, and which way up they are.

Sources need the size of an image and row ops its pixels; both open it here, so that they agree.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from paligemma_jax.core import complete
from paligemma_jax.core import errors
from paligemma_jax.core import foreign

if TYPE_CHECKING:
  from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"
)  # fmt: skip
# Of images that are not read: a folder that holds some is told of.
OTHER_ENDINGS = (
    ".avif", ".heic", ".heif", ".svg", ".jxl", ".jp2", ".j2k", ".psd", ".ico", ".tga", ".exr",
    ".dng", ".cr2", ".nef", ".arw", ".ppm", ".pgm", ".mpo",
)  # fmt: skip

_ORIENTATION = 0x0112
_INVERSE = {6: 8, 8: 6}  # The other six are their own.


class Header(NamedTuple):
  """What a file says of its image.

  height, width: in pixels, as stored.
  orientation: of EXIF, 1 to 8; 1 is as stored, and where there is none or it cannot be read.
  """

  height: int
  width: int
  orientation: int

  def size(self, *, exif: bool) -> tuple[int, int]:
    """(height, width) of the image, upright as its EXIF says or as stored."""
    if exif and self.orientation >= 5:
      return self.width, self.height
    return self.height, self.width


def opened(data: bytes) -> Image.Image:
  """The image of a file, not decoded yet; to be closed by the caller.

  Texts and color profiles of a PNG are left out: they may be of any size, and no pixel needs them.

  Raises:
    DataError: no complete file of a format in FORMATS.
    Exception: whatever Pillow's readers raise on damaged files.
  """
  from PIL import Image  # Here, so that configs need not wait for it.

  complete.check(data)
  try:
    return Image.open(io.BytesIO(complete.without_texts(data)), formats=FORMATS)
  except Image.UnidentifiedImageError:
    raise errors.DataError(unknown(data)) from None


def header(data: bytes) -> Header:
  """What a file says of its image.

  Raises:
    DataError: no image of a format in FORMATS, or a damaged one.
  """
  try:
    with opened(data) as im:
      turned = orientation(im, data) or 1
      height, width = stored_size(im, turned)
      return Header(height, width, turned)
  except (errors.DataError, MemoryError):
    raise
  except Exception as e:  # Of Pillow's readers: many types.
    raise errors.DataError(f"the image cannot be read: {type(e).__name__}: {e}.") from None


def stored_size(im: Image.Image, orientation: int) -> tuple[int, int]:
  """(height, width) as stored of an image that is not decoded yet; Pillow turns TIFFs itself."""
  if im.format == "TIFF" and orientation >= 5:
    return im.width, im.height
  return im.height, im.width


def orientation(im: Image.Image, data: bytes) -> int | None:
  """The EXIF orientation, 1 to 8, of an opened image; None where its EXIF cannot be read.

  A TIFF must be asked before it is decoded.
  """
  try:
    if im.format == "PNG" and "exif" not in im.info and not complete.png_says_orientation(data):
      return 1  # Pillow would decode the whole image to find that out.
    raw = im.info.get("Raw profile type exif") if "exif" not in im.info else None
    if raw is not None:  # As ImageMagick writes it: in hexadecimal, below three lines.
      complete.check_tags(bytes.fromhex("".join(raw.split("\n")[3:])))
    found = im.getexif().get(_ORIENTATION, 1)
  except Exception:  # A damaged EXIF block says nothing about the pixels.
    return None
  return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turned(pixels: Any, orientation: int) -> Any:
  """The array [H, W, …], turned upright; a view."""
  if orientation in (3, 4, 6, 7):
    pixels = pixels[::-1]
  if orientation in (2, 3, 7, 8):
    pixels = pixels[:, ::-1]
  return pixels.swapaxes(0, 1) if orientation >= 5 else pixels


def turned_back(pixels: Any, orientation: int) -> Any:
  """The inverse of `turned`."""
  return turned(pixels, _INVERSE.get(orientation, orientation))


def unknown(data: bytes) -> str:
  """What is wrong with a file of no format in FORMATS, and what helps."""
  known = ", ".join(FORMATS)
  found, remedy = foreign.not_downloaded(data)
  if found:
    return f"no image but {found}. {remedy}."
  found, remedy = foreign.image(data)
  if found:
    return f"{found}; expected {known}. {remedy}."
  return f"no image of {known}: starts with {data[:12]!r}."
