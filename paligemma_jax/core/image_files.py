"""Image files before a pixel is decoded: their format, their size, and which way up they are.

Sources need the size of a picture and row ops its pixels; both open it here, so that they agree.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from paligemma_jax.core import complete
from paligemma_jax.core import errors

if TYPE_CHECKING:
  from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"
)  # fmt: skip
# Of pictures that are not read: a folder that holds some is told of.
OTHER_ENDINGS = (
    ".avif", ".heic", ".heif", ".svg", ".jxl", ".jp2", ".j2k", ".psd", ".ico", ".tga", ".exr",
    ".dng", ".cr2", ".nef", ".arw", ".ppm", ".pgm", ".mpo",
)  # fmt: skip

_ORIENTATION = 0x0112
_INVERSE = {6: 8, 8: 6}  # The other six are their own.
_LFS = b"version https://git-lfs.github.com/spec/"
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_CONVERT = "Convert it before: image.convert('RGB').save('….png') with Pillow does"
_STARTS = (
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"v/1\x01", "an OpenEXR file"),
    (b"II+\0", "a BigTIFF file"),
    (b"MM\0+", "a BigTIFF file"),
)


class Header(NamedTuple):
  """What a file says of its picture.

  height, width: in pixels, as stored.
  orientation: of EXIF, 1 to 8; 1 is as stored, and where there is none or it cannot be read.
  """

  height: int
  width: int
  orientation: int

  def size(self, *, exif: bool) -> tuple[int, int]:
    """(height, width) of the picture, upright as its EXIF says or as stored."""
    if exif and self.orientation >= 5:
      return self.width, self.height
    return self.height, self.width


def opened(data: bytes) -> Image.Image:
  """The picture of a file, not decoded yet; to be closed by the caller.

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
  """What a file says of its picture.

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
  """(height, width) as stored of a picture that is not decoded yet; Pillow turns TIFFs itself."""
  if im.format == "TIFF" and orientation >= 5:
    return im.width, im.height
  return im.height, im.width


def orientation(im: Image.Image, data: bytes) -> int | None:
  """The EXIF orientation, 1 to 8, of an opened picture; None where its EXIF cannot be read.

  A TIFF must be asked before it is decoded.
  """
  try:
    if im.format == "PNG" and "exif" not in im.info and not complete.png_says_orientation(data):
      return 1  # Pillow would decode the whole picture to find that out.
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
  found, remedy = foreign(data)
  if found:
    return f"{found}; expected {known}. {remedy}."
  return f"no image of {known}: starts with {data[:12]!r}."


def foreign(data: bytes) -> tuple[str, str]:
  """('a git-lfs pointer, …', what helps) of a file that is none of ours; ('', '') if not known."""
  text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
  if data.startswith(_LFS):
    return (
        "a git-lfs pointer, not the file itself",
        "Run 'git lfs pull' where it was cloned, or download the file",
    )
  if b"<svg" in text and text.startswith(b"<"):
    return "an SVG drawing, which has no pixels", "Convert it to PNG before"
  if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
    return (
        "an HTML page: a web site answered a download with it",
        "Download the file again; it may need a login, or be gone",
    )
  if text.startswith(b"<?xml"):
    return "XML text", "Download the file again; it may be the error message of a server"
  if text.startswith((b'{"', b"{\n", b"{ ")):
    return "JSON text", "Download the file again; it may be the error message of a server"
  if data[4:8] == b"ftyp":
    brands = (data[8:12], *(data[i : i + 4] for i in range(16, 64, 4)))
    if any(brand in _AVIF for brand in brands):
      return "an AVIF file", _CONVERT
    if any(brand in _HEIC for brand in brands):
      return "a HEIC file", f"{_CONVERT}, after 'pip install pillow-heif'"
    return "a video", "Read it with sources.Video"
  for start, what in _STARTS:
    if data.startswith(start):
      return what, _CONVERT
  return "", ""
