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


def _encoded(seed, size, form):
  colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(colors).resize(size, PIL.Image.Resampling.NEAREST).save(file, form)
  return file.getvalue()


def write(path, content):
  """Writes bytes, or JSON-able content, below folders that are made."""
  path.parent.mkdir(parents=True, exist_ok=True)
  data = content if isinstance(content, bytes) else json.dumps(content).encode()
  path.write_bytes(data)
