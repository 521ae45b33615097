"""Whether weights hold only numbers: NaN and infinity spoil every step that is made from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import errors

_PIECE = 1 << 18  # Elements looked at together: they are still in the processor's cache.
_SHOWN = 3
# Of 16-bit floats: the least bits, the sign left out, that are infinity; more are NaN.
_INFINITY = {"bfloat16": 0x7F80, "float16": 0x7C00}


def copy(target: np.ndarray, source: np.ndarray) -> bool:
  """target[...] = source; whether the source, a float array, holds only numbers."""
  flat = target.shape == source.shape
  if not (flat and target.flags.c_contiguous and source.flags.c_contiguous):
    target[...] = source
    return check(source)
  into, out_of = target.reshape(-1), source.reshape(-1)
  good = True
  for start in range(0, out_of.size, _PIECE):
    piece = out_of[start : start + _PIECE]
    good = good and _piece(piece)
    into[start : start + _PIECE] = piece
  return good


def check(array: np.ndarray) -> bool:
  """Whether a float array holds only numbers."""
  flat = np.ascontiguousarray(array).reshape(-1)
  return all(_piece(flat[i : i + _PIECE]) for i in range(0, flat.size, _PIECE))


def refuse(path: object, names: Sequence[str], num_all: int) -> None:
  """CheckpointError that names the first of `names`, whose parameters hold NaN or infinity."""
  if not names:
    return
  shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
  raise errors.CheckpointError(
      f"{path}: {len(names)} of {num_all} parameters hold numbers that are not finite (NaN or"
      f" infinity): {shown}. The file is damaged, or of a run that went wrong: take an earlier one."
  )


def _piece(flat: np.ndarray) -> bool:
  """One of a few operations that pass over the memory once and make no array."""
  infinity = _INFINITY.get(flat.dtype.name)
  if infinity is not None:
    bits = flat.view(np.uint16)  # The largest one is negative, if one of them is.
    return bool(bits.max() < 0x8000 + infinity and bits.view(np.int16).max() < infinity)
  if flat.dtype.kind != "f":  # Codes of packed weights.
    return True
  return bool(np.isfinite(flat.max()) and np.isfinite(flat.min()))  # NaN is the largest, too.
