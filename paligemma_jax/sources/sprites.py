"""The embedded drawings, cut out of their atlas and scaled; see assets/demo/README.md."""

from __future__ import annotations

import functools
import json
import pathlib
import zlib
from typing import NamedTuple

import numpy as np

DEMO = pathlib.Path(__file__).resolve().parent.parent / "assets" / "demo"
SPLITS = ("base", "heldout", "all")


class Sprite(NamedTuple):
  """A drawing ready to be put on a background: `(background * keep + paint) >> 8`.

  keep: uint16[h, w, 1], what is left of the background, in 256ths.
  paint: uint16[h, w, 3], the drawing's colours times its opacity.
  mask: bool[h, w], the pixels that count as visible; touches all four sides.
  """

  keep: np.ndarray
  paint: np.ndarray
  mask: np.ndarray


@functools.cache
def names(split: str) -> tuple[str, ...]:
  """The class names of a split, in the atlas's order."""
  return tuple(c["name"] for c in _classes() if split in ("all", c["split"]))


@functools.cache
def get(name: str, *, side: int, flip: bool) -> Sprite:
  """A drawing, its longer side `side` pixels (at most one less after trimming), maybe mirrored."""
  from PIL import Image  # Here, so that importing a source stays cheap.

  x, y, width, height = next(c["box"] for c in _classes() if c["name"] == name)
  rgba = np.ascontiguousarray(_atlas()[y : y + height, x : x + width])
  scale = side / max(width, height)
  shape = max(1, round(width * scale)), max(1, round(height * scale))
  # Premultiplied ("RGBa") before it is scaled, so that no colour bleeds in from clear pixels.
  image = Image.fromarray(rgba, "RGBA").convert("RGBa").resize(shape, Image.Resampling.BICUBIC)
  pixels = np.asarray(image)
  mask = pixels[..., 3] >= 128
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  pixels, mask = pixels[inside], mask[inside]
  if flip:
    pixels, mask = pixels[:, ::-1], mask[:, ::-1]
  alpha = pixels[..., 3:].astype(np.uint16)
  paint = np.minimum(pixels[..., :3], pixels[..., 3:]).astype(np.uint16) * 256
  # 256 * color + (256 - alpha') * background stays below 2**16: alpha' is alpha stretched to 256.
  keep = (256 - (alpha + (alpha >> 7))).astype(np.uint16)
  return Sprite(keep, paint, np.ascontiguousarray(mask))


@functools.cache
def fingerprint() -> str:
  """Changes when the drawings or the names do."""
  content = (DEMO / "sprites.png").read_bytes() + (DEMO / "names.json").read_bytes()
  return f"{zlib.crc32(content):08x}"


@functools.cache
def _classes() -> tuple[dict, ...]:
  return tuple(json.loads((DEMO / "names.json").read_text(encoding="utf-8"))["classes"])


@functools.cache
def _atlas() -> np.ndarray:
  """uint8[H, W, 4]."""
  from PIL import Image

  with Image.open(DEMO / "sprites.png") as image:
    return np.asarray(image.convert("RGBA"))
