"""Position embeddings for another resolution, resampled by the reference's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.models import params as param_table


def resamples(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> bool:
  """True when only the number of image tokens of the position embedding differs.

  Raises:
    CheckpointError: one of the two grids is no square.
  """
  old, new = found.get(param_table.POS_EMBEDDING), expected.get(param_table.POS_EMBEDDING)
  if old is None or new is None or old == new or (old[0], old[2:]) != (new[0], new[2:]):
    return False
  for num_tokens in (old[1], new[1]):
    if math.isqrt(num_tokens) ** 2 != num_tokens:
      raise errors.CheckpointError(
          f"{param_table.POS_EMBEDDING}: cannot be resampled from {old[1]} to {new[1]} tokens:"
          f" {num_tokens} is no square."
      )
  return True


def resample(pos_embedding: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  """float32[1, n, d] -> float32[*shape]: linear in the square grid, its corners kept in place."""
  from scipy import ndimage  # Takes 0.2 s to import and is rarely needed.

  old, new = math.isqrt(pos_embedding.shape[1]), math.isqrt(shape[1])
  grid = pos_embedding.astype(np.float32).reshape(old, old, -1)
  zoomed = ndimage.zoom(grid, (new / old, new / old, 1), order=1)
  return zoomed.reshape(shape)
