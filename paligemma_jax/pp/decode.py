"""Image files to pixels, by content and not by name; what cannot be trusted is rejected.

JPEGs are decoded by libjpeg-turbo through simplejpeg, by default with the fast integer DCT. So does
TensorFlow, through which the published weights saw their images; the pixels are the same in bits.
The accurate DCT, that of Pillow and transformers, is a level away on average and up to seven. All
other formats are Pillow's, and JPEGs that simplejpeg does not take (CMYK, odd bytes between parts).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns
from paligemma_jax.pp import complete

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000
MAX_SIDE = 1 << 15

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA = ("drop", "white", "black")
_DCT = ("fast", "accurate")


@spec_lib.spec
class Decode:
  """Image file (bytes) or pixels (uint8 or uint16 array) to uint8[H, W, 3].

  A list of images becomes a list; Resize makes frames of it. Grey is repeated, CMYK and palettes
  are converted, of 16 bits the high byte is kept, of an animation the first frame.

  Attributes:
    key: the column.
    exif: turn the picture upright as its EXIF says; False leaves it as stored, as the reference
      does, for runs that reproduce published numbers.
    alpha: "drop" ignores transparency as the reference does; "white" or "black" paints that behind.
    max_pixels: larger pictures are rejected from their header, before memory is taken.
    dct: of JPEGs: "fast" has the reference's pixels in bits, "accurate" those of its
      `decode(precise=True)` and of transformers.

  Notes: exif_rotated, alpha_dropped, animation_first_frame, exif_unreadable.
  """

  key: str = "image"
  exif: bool = True
  alpha: str = "drop"
  max_pixels: int = MAX_PIXELS
  dct: str = "fast"

  def __post_init__(self):
    errors.pick(dict.fromkeys(_ALPHA), self.alpha, "alpha of Decode")
    errors.pick(dict.fromkeys(_DCT), self.dct, "dct of Decode")

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.key,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value = columns.get(row, self.key)
    notes: list[str] = []
    try:
      if isinstance(value, (list, tuple)):
        if not value:
          raise errors.DataError("an empty list of images.")
        pixels: Any = [self._decode(item, notes) for item in value]
      else:
        pixels = self._decode(value, notes)
    except errors.DataError as e:
      path = row.get(f"{self.key}_path")  # Sources that read files say here which.
      named = f"column {self.key!r}" + (f", {path!r}" if path else "")
      raise errors.DataError(f"{named}: {e}") from None
    out = {**row, self.key: pixels}
    if notes:
      out[columns.NOTES] = columns.with_notes(row, tuple(dict.fromkeys(notes)))
    return out

  def _decode(self, value: Any, notes: list[str]) -> np.ndarray:
    if isinstance(value, bytes):
      return decode_image(
          value,
          exif=self.exif,
          alpha=self.alpha,
          max_pixels=self.max_pixels,
          dct=self.dct,
          notes=notes,
      )
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
) -> np.ndarray:
  """uint8[H, W, 3] from the bytes of an image file; arguments as those of `Decode`.

  Args:
    notes: remarks on what had to be decided are appended to it.

  Raises:
    DataError: no complete image of a format in FORMATS, or one that is too large.
  """
  notes = [] if notes is None else notes
  try:
    complete.check(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as im:
      _check_size(im.size, max_pixels)
      if getattr(im, "is_animated", False) and im.format in ("GIF", "WEBP", "PNG"):
        notes.append("animation_first_frame")
      pixels = None
      if im.format == "JPEG" and im.mode in ("RGB", "L"):
        pixels = _jpeg(data, im.size, dct)
      if pixels is None:
        im.load()  # First: of a PNG, asking for EXIF loads too, and would hide what is damaged.
      turn = _upright(im, notes) if exif else None
      if pixels is None:
        pixels = np.asarray(_to_rgb(im, alpha, notes))
      if turn is None:
        return pixels
      return np.asarray(Image.fromarray(pixels).transpose(turn))
  except errors.DataError:
    raise
  except Image.DecompressionBombError:
    raise errors.DataError(f"the image has more than {max_pixels} pixels.") from None
  except Image.UnidentifiedImageError:
    start = data[:12]
    raise errors.DataError(f"no image of {', '.join(FORMATS)}: starts with {start!r}.") from None
  except MemoryError:
    raise
  except Exception as e:  # Whatever Pillow's readers raise on damaged files: many types.
    raise errors.DataError(f"the image is damaged: {type(e).__name__}: {e}.") from None


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


def _jpeg(data: bytes, size: tuple[int, int], dct: str) -> np.ndarray | None:
  """uint8[H, W, 3] of a JPEG without Pillow's copies of it; None where Pillow has to say."""
  out = np.empty((size[1], size[0], 3), np.uint8)  # No more memory than the header was checked for.
  try:
    pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=dct == "fast", buffer=out)
  except ValueError:  # Also what Pillow forgives, such as odd bytes between segments.
    return None
  return pixels if pixels.shape == out.shape else None


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
  width, height = size
  if width * height > max_pixels or max(size) > MAX_SIDE:
    raise errors.DataError(
        f"the image is {width} x {height}; the limits are {max_pixels} pixels and sides of"
        f" {MAX_SIDE}."
    )
  if not width or not height:
    raise errors.DataError(f"an image without pixels, {width} x {height}.")


def _upright(im: Image.Image, notes: list[str]) -> Image.Transpose | None:
  try:
    orientation = im.getexif().get(_EXIF_ORIENTATION, 1)
  except Exception:  # A damaged EXIF block says nothing about the pixels.
    notes.append("exif_unreadable")
    return None
  turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
  if turn is not None:
    notes.append("exif_rotated")
  return turn


def _to_rgb(im: Image.Image, alpha: str, notes: list[str]) -> Image.Image:
  """Mode RGB; deeper values keep their high byte (Pillow's own conversion would clip them)."""
  if im.mode == "RGB" and "transparency" not in im.info:
    return im
  if im.mode.startswith("I;16"):
    return Image.fromarray((np.asarray(im) >> 8).astype(np.uint8)).convert("RGB")
  if im.mode in ("I", "F"):
    raise errors.DataError(f"pixels of mode {im.mode!r} have no known range of values.")
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
