"""The weights of a separable resize, as sparse matrices, in the arithmetic of TensorFlow's kernel.

Every output pixel is a weighted sum of input pixels, whose weights are a kernel around the place
the output pixel comes from. With antialias the kernel is widened by the factor of shrinking. All of
it in float32 and in TensorFlow's order of operations, so results agree to about 1e-4 of a level.
By "area" the weights are the shares of the output pixel that the input pixels cover.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  import scipy.sparse

_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


@functools.lru_cache(maxsize=512)
def matrix(in_len: int, out_len: int, method: str, antialias: bool) -> scipy.sparse.csr_matrix:
  """float32[out_len, in_len]: resizes one axis. Shared between callers: do not change it."""
  import scipy.sparse  # Takes 0.1 s to import, which configs should not have to wait for.

  f32 = np.float32
  if method == "area":
    return scipy.sparse.csr_matrix(_shares(in_len, out_len))
  inverse_scale = f32(1.0 / (f32(out_len) / f32(in_len)))
  kernel_scale = max(inverse_scale, f32(1)) if antialias else f32(1)
  radius = f32(_RADIUS[method]) * kernel_scale
  centre = (np.arange(out_len, dtype=f32) + f32(0.5)) * inverse_scale
  first = np.maximum(np.ceil(centre - radius - f32(0.5)), 0).astype(np.int64)
  last = np.minimum(np.floor(centre + radius - f32(0.5)), in_len - 1).astype(np.int64)
  num_taps = int((last - first).max()) + 1
  taps = first[:, None] + np.arange(num_taps)
  distance = np.abs(taps.astype(f32) + f32(0.5) - centre[:, None]) * (f32(1) / kernel_scale)
  weights = np.where(taps <= last[:, None], _kernel(method, distance), f32(0)).astype(f32)
  total = np.zeros(out_len, f32)
  for tap in range(num_taps):  # One by one: numpy's own sum adds in another order.
    total += weights[:, tap]
  weights *= (f32(1) / total)[:, None]
  used = taps <= last[:, None]
  starts = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
  return scipy.sparse.csr_matrix((weights[used], taps[used], starts), shape=(out_len, in_len))


def _shares(in_len: int, out_len: int) -> np.ndarray:
  """float32[out_len, in_len]: how much of each output pixel's stretch each input pixel covers."""
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
