"""A PNG file of which each pixel is a number, as masks are stored."""

from __future__ import annotations

import io

import numpy as np

from paligemma_jax.core import complete
from paligemma_jax.core import errors

_MAX_PIXELS = 50_000_000


def pixels(data: bytes) -> np.ndarray:
  """[H, W] or [H, W, C] of the numbers in the file; of a palette they are not looked up.

  Raises:
    DataError: no intact PNG file, or one that is too large.
  """
  from PIL import Image  # Here, so that configs need not wait for it.

  try:
    complete.check(data)
    with Image.open(io.BytesIO(complete.without_texts(data)), formats=("PNG",)) as image:
      if image.width * image.height > _MAX_PIXELS:
        raise errors.DataError(f"it has more than {_MAX_PIXELS} pixels.")
      found = np.asarray(image)
    if not complete.png_holds_all_rows(data):
      raise errors.DataError("its data end before the last row.")
    return found
  except errors.DataError as e:
    raise errors.DataError(f"no intact PNG: {e}") from None
  except MemoryError:
    raise
  except Exception as e:  # Whatever Pillow's reader raises on damaged files: many types.
    raise errors.DataError(f"no intact PNG: {type(e).__name__}: {e}.") from None
