"""Small pictures for the miniatures."""

import io
import json

import numpy as np
import PIL.Image


def jpeg(seed, size=(48, 36)):
  """The bytes of a JPEG, width x height pixels, another for each seed."""
  return _encoded(seed, size, "JPEG")


def png(seed, size=(48, 36)):
  """The bytes of a PNG."""
  return _encoded(seed, size, "PNG")


def tiff(seed, size=(48, 36)):
  """The bytes of a TIFF."""
  return _encoded(seed, size, "TIFF")


def grey_png(seed, size=(48, 36)):
  """The bytes of a PNG without colours."""
  return _encoded(seed, size, "PNG", "L")


def _encoded(seed, size, form, mode="RGB"):
  colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
  image = PIL.Image.fromarray(colors).resize(size, PIL.Image.Resampling.NEAREST).convert(mode)
  file = io.BytesIO()
  image.save(file, form)
  return file.getvalue()


def write(path, content):
  """Writes bytes, or JSON-able content, below folders that are made."""
  path.parent.mkdir(parents=True, exist_ok=True)
  data = content if isinstance(content, bytes) else json.dumps(content).encode()
  path.write_bytes(data)
