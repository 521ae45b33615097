"""Image files to pixels, by content and not by name; suspicious files are rejected.

JPEGs are decoded by libjpeg-turbo through simplejpeg, by default with the fast integer DCT, as in
TensorFlow, with which the published weights were trained; the pixels are equal in bits. The
accurate DCT, that of Pillow and transformers, differs by a level on average and by up to seven.
Pillow decodes all other formats, and JPEGs that simplejpeg rejects (odd bytes between segments).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import image_files
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns

MAX_PIXELS = 50_000_000
MAX_SIDE = 1 << 15

# Pillow reads packed BMPs in Python.
_MAX_PACKED_PIXELS = 4_000_000
_MAX_PACKED_BYTES = 16 << 20
# A WebP takes four copies of the image; a progressive JPEG in CMYK keeps four channels of
# coefficients, twice as large as pixels.
_HALF = 2
_STRIP_PIXELS = 4_000_000  # Converted at a time, so that no second copy of all pixels is made.
_LOST = ("premature end", "bad huffman", "bad arithmetic", "instead of rst")  # Of libjpeg's errors.

_INVERSE = {6: 8, 8: 6}  # EXIF orientations that turn back; the other six are their own.


@spec_lib.spec
class Decode(columns.Op):
  """Image file (bytes) or pixels (uint8 or uint16 array) to uint8[H, W, 3].

  A list of images stays a list, which Resize turns into frames. Grey is repeated, CMYK and palettes
  are converted; the high byte of 16 bits and the first frame of an animation are kept.

  Attributes:
    key: the column.
    exif: turn the image upright as its EXIF says; False leaves it as stored, as the reference does,
      to reproduce published numbers. The `exif` of the row's source (Coco, Yolo, Voc) takes
      precedence, so that boxes, masks and pixels agree.
    alpha: "drop" ignores transparency as the reference does; "white" or "black" is the background.
    max_pixels: larger images are rejected by their header, before memory is allocated; half of it
      for a WebP, a TIFF and a progressive JPEG in CMYK, which take more memory per pixel.
    max_row_pixels: the limit of all images in a list.
    dct: of JPEGs: "fast" gives the reference's pixels in bits, "accurate" those of its
      `decode(precise=True)` and of transformers.

  Notes: exif_rotated, alpha_dropped, animation_first_frame, exif_unreadable.
  """

  key: str = "image"
  exif: bool = True
  alpha: str = "drop"
  max_pixels: int = MAX_PIXELS
  max_row_pixels: int = columns.MAX_ROW_PIXELS
  dct: str = "fast"

  writes = ("key",)
  choices = (("alpha", ("drop", "white", "black")), ("dct", ("fast", "accurate")))

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value = columns.get(row, self.key)
    exif = row.get(image_files.EXIF, self.exif)
    notes: list[str] = []
    try:
      if isinstance(value, (list, tuple)):
        pixels: Any = self._decode_all(value, exif, notes)
      else:
        pixels = self._decode(value, exif, notes)
    except errors.DataError as e:
      raise self._located(row, e) from None
    return {**row, self.key: pixels, **columns.noted(row, notes)}

  def precheck(self, row: Mapping[str, Any]) -> None:
    """Raises a DataError for a file whose header shows that it cannot be decoded."""
    value = columns.get(row, self.key)
    for item in value if isinstance(value, (list, tuple)) else [value]:
      if isinstance(item, bytes):
        try:
          check_header(item, max_pixels=self.max_pixels)
        except errors.DataError as e:
          raise self._located(row, e) from None

  def _located(self, row: Mapping[str, Any], error: errors.DataError) -> errors.DataError:
    """The error with the column, and the path where the source gives it, in front."""
    path = row.get(f"{self.key}_path")
    return errors.DataError(f"column {self.key!r}{f', {path!r}' if path else ''}: {error}")

  def _decode_all(self, values: Sequence[Any], exif: bool, notes: list[str]) -> list[np.ndarray]:
    if not values:
      raise errors.DataError("an empty list of images.")
    if len(values) > columns.MAX_ROW_ITEMS:
      raise errors.DataError(f"{len(values)} images; a row may have {columns.MAX_ROW_ITEMS}.")
    left = max(self.max_row_pixels, self.max_pixels)
    out = []
    for n, value in enumerate(values, 1):
      try:
        out.append(self._decode(value, exif, notes, left))
      except errors.DataError as e:
        raise errors.DataError(f"image {n} of {len(values)}: {e}") from None
      left -= out[-1].size // 3
    return out

  def _decode(
    self, value: Any, exif: bool, notes: list[str], left: int = MAX_SIDE**2
  ) -> np.ndarray:
    if isinstance(value, bytes):
      limits = {"max_pixels": self.max_pixels, "left": left}
      return decode_image(value, exif=exif, alpha=self.alpha, dct=self.dct, notes=notes, **limits)
    if isinstance(value, np.ndarray):
      return from_pixels(value, alpha=self.alpha, notes=notes)
    raise errors.DataError(
      f"expected the bytes of an image file or an array of pixels, found"
      f" {type(value).__name__} {str(value)[:60]!r} (a path is opened by the source:"
      " Jsonl(image_column=…))."
    )


def decode_image(
  data: bytes,
  *,
  exif: bool = True,
  alpha: str = "drop",
  max_pixels: int = MAX_PIXELS,
  dct: str = "fast",
  notes: list[str] | None = None,
  left: int = MAX_SIDE**2,
) -> np.ndarray:
  """uint8[H, W, 3] from the bytes of an image file; arguments as of `Decode`.

  Args:
    notes: the remarks of `Decode` are appended to it.
    left: how many pixels the row may still have; a DataError for more, and for no complete image.
  """
  notes = [] if notes is None else notes
  with image_files.opened(data) as im:
    _check_size(im, len(data), max_pixels, left)
    if im.format in ("GIF", "WEBP", "PNG") and getattr(im, "is_animated", False):
      notes.append("animation_first_frame")
    # Asked before decoding: Pillow turns a TIFF while it decodes it.
    found = image_files.orientation(im, data) if im.format == "TIFF" else None
    pixels = None
    if im.format in ("JPEG", "MPO"):  # An MPO is a JPEG followed by others.
      pixels = _jpeg(data, im.size, dct if im.format == "JPEG" else "accurate", im.mode)
    if pixels is None:
      im.load()  # First: asking a PNG for EXIF may load it too, and would hide damage.
      _check_rows(im, data)
    if im.format != "TIFF":
      found = image_files.orientation(im, data) if exif else 1
    if found is None:
      notes.append("exif_unreadable")
    elif exif and found > 1:
      notes.append("exif_rotated")
    if pixels is None:
      pixels = _rgb_pixels(im, alpha, notes)
    found = found or 1
    if im.format == "TIFF":
      found = 1 if exif else _INVERSE.get(found, found)
    return np.ascontiguousarray(image_files.turned(pixels, found))


def check_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> None:
  """Raises a DataError for a file that is no image or too large; no pixel is decoded."""
  with image_files.opened(data) as im:
    _check_size(im, len(data), max_pixels, max_pixels)


def from_pixels(
  value: np.ndarray, *, alpha: str = "drop", notes: list[str] | None = None
) -> np.ndarray:
  """uint8[..., H, W, 3] from pixels: uint8 or uint16, [H, W], [H, W, 1], [..., H, W, 3 or 4]."""
  pixels = (value >> 8).astype(np.uint8) if value.dtype == np.uint16 else value
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] not in (1, 3, 4):
    raise errors.DataError(
      f"expected pixels uint8[H, W, 3], found {value.dtype}{list(value.shape)}."
    )
  if not pixels.size:
    raise errors.DataError(f"an image without pixels, {list(value.shape)}.")
  if pixels.shape[-1] == 1:
    return np.repeat(pixels, 3, axis=-1)
  if pixels.shape[-1] == 3:
    return pixels
  if alpha == "drop":
    if notes is not None:
      notes.append("alpha_dropped")
    return np.ascontiguousarray(pixels[..., :3])
  return _over(pixels, alpha)


def _jpeg(data: bytes, size: tuple[int, int], dct: str, mode: str) -> np.ndarray | None:
  """uint8[H, W, 3] of a JPEG without the copies that Pillow makes; None where Pillow must decode.

  A DataError where a part of the image is lost, which Pillow would silently paint grey.
  """
  cmyk = mode == "CMYK"
  # The size in the header was checked, so this bounds the memory.
  out = np.empty((size[1], size[0], 4 if cmyk else 3), np.uint8)
  try:
    pixels = simplejpeg.decode_jpeg(
      data, "CMYK" if cmyk else "RGB", fastdct=dct == "fast" and not cmyk, buffer=out
    )
  except ValueError as e:  # Pillow tolerates some of it, such as odd bytes between segments.
    if any(lost in str(e).lower() for lost in _LOST):
      raise errors.DataError(f"the image is damaged: {e}.") from None
    return None
  if pixels.shape != out.shape:
    return None
  if cmyk:  # Stored inverted, as Adobe does.
    return _rgb_pixels(Image.fromarray(np.invert(out, out=out), "CMYK"), "drop", [])
  return pixels


def _check_size(im: Image.Image, num_bytes: int, max_pixels: int, left: int) -> None:
  width, height = im.size
  note = ""
  if im.format in ("WEBP", "TIFF"):
    max_pixels, note = max_pixels // _HALF, f" of a {im.format}"
  elif im.mode == "CMYK" and im.info.get("progressive"):
    max_pixels, note = max_pixels // _HALF, " of a progressive JPEG in CMYK"
  elif im.format == "BMP" and im.info.get("compression") in (1, 2):
    if num_bytes > _MAX_PACKED_BYTES:
      raise errors.DataError(f"a packed BMP of more than {_MAX_PACKED_BYTES} bytes.")
    max_pixels, note = min(max_pixels, _MAX_PACKED_PIXELS), " of a packed BMP"
  if width * height > max_pixels or max(im.size) > MAX_SIDE:
    raise errors.DataError(
      f"the image is {width} x {height}; the limits{note} are {max_pixels} pixels and sides of"
      f" {MAX_SIDE}."
    )
  if width * height > left:
    raise errors.DataError(
      f"the image is {width} x {height}, but the images of the row before it leave {left} pixels"
      " of what a row may have in all (Decode.max_row_pixels)."
    )
  if not width or not height:
    raise errors.DataError(f"an image without pixels, {width} x {height}.")


def _check_rows(im: Image.Image, data: bytes) -> None:
  """DataError where a PNG's data end early, which leaves the missing rows blank.

  The last row is enough to pass nearly every file; the rows of the others are counted.
  """
  if im.format != "PNG":
    return
  last = im.crop((0, im.height - 1, im.width, im.height)).tobytes()
  blank = last.count(0) == len(last)
  if (blank or im.info.get("interlace")) and not file_checks.png_holds_all_rows(data):
    raise errors.DataError("the image is damaged: the data end before the last row.")


def _rgb_pixels(im: Image.Image, alpha: str, notes: list[str]) -> np.ndarray:
  """uint8[H, W, 3], in strips: converting the whole image would double the memory."""
  rows = max(1, _STRIP_PIXELS // im.width)
  if rows >= im.height:
    return np.asarray(_to_rgb(im, alpha, notes))
  out = np.empty((im.height, im.width, 3), np.uint8)
  for y in range(0, im.height, rows):
    strip = im.crop((0, y, im.width, min(y + rows, im.height)))
    out[y : y + rows] = np.asarray(_to_rgb(strip, alpha, notes))
  return out


def _to_rgb(im: Image.Image, alpha: str, notes: list[str]) -> Image.Image:
  """Mode RGB; deeper values keep their high byte (Pillow's own conversion would clip them)."""
  if im.mode == "RGB" and "transparency" not in im.info:
    return im
  if im.mode.startswith("I;16"):
    return Image.fromarray((np.asarray(im) >> 8).astype(np.uint8)).convert("RGB")
  if im.mode in ("I", "F"):
    raise errors.DataError(
      f"pixels of mode {im.mode!r} have no known range of values. Save them as 8 or 16 bits"
      " before, as in Image.fromarray(levels.astype('uint8'))."
    )
  if im.mode == "LAB":
    from PIL import ImageCms  # Not every build of Pillow has it.

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(im, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))
    assert converted is not None  # It would be None in place.
    return converted
  has_alpha = im.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in im.info
  if has_alpha and alpha != "drop":
    return Image.fromarray(_over(np.asarray(im.convert("RGBA")), alpha))
  if has_alpha:
    notes.append("alpha_dropped")
  return im.convert("RGB")


def _over(pixels: np.ndarray, background: str) -> np.ndarray:
  """uint8[..., 3]: uint8[..., 4] painted over white or black, rounded to the nearest level."""
  level = 255 if background == "white" else 0
  opacity = pixels[..., 3:].astype(np.uint32)
  mixed = pixels[..., :3] * opacity + level * (255 - opacity)
  return ((mixed + 127) // 255).astype(np.uint8)
