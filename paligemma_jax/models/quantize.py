"""Matrices in 4 or 8 bits: blocks of 64 inputs share a float32 scale (QLoRA, arXiv:2305.14314).

  nf4   the 16 quantiles of a normal distribution, times the block's largest absolute value
  int4  -7 … 7, times a seventh of it
  int8  -127 … 127, times a 127th of it

Bytes per parameter, scales included: 0.5625, 0.5625, 1.0625. Blocks run along the inputs, as in the
published implementation, which cuts torch's [out, in] matrices into rows of 64. Of a block's 64
codes of 4 bits, byte j holds number j in its low half and number j + 32 in its high half, so that
unpacking moves no number past its neighbours. An input dim that 64 does not divide is padded.

  "…" any stack of matrices, I inputs, O outputs, N blocks, c = 64.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("nf4", "int8", "int4")
BLOCK = 64

# As published with arXiv:2305.14314; rounded to float32 they are its code book.
# fmt: off
NF4 = np.array([
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
  -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
  0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)
# fmt: on
_MIDDLES = (NF4[1:] + NF4[:-1]) / 2
_INT_MAX = {"int8": 127, "int4": 7}


def quantize(w: jax.Array, kind: str, *, axis: int = -2) -> tuple[jax.Array, jax.Array]:
  """(codes, scale) of float[…, I, O], or of float[…, I] with axis -1.

  codes: uint8[…, N * 32, O], or int8[…, N * 64, O] for int8. scale: float32[…, N, O].
  """
  axis += w.ndim
  num_blocks = -(-w.shape[axis] // BLOCK)
  pad = [(0, 0)] * w.ndim
  pad[axis] = (0, num_blocks * BLOCK - w.shape[axis])
  w = _cut(jnp.pad(w.astype(jnp.float32), pad), axis, num_blocks)
  most = jnp.abs(w).max(axis=axis + 1, keepdims=True)
  divisor = jnp.where(most == 0, 1.0, most)
  if kind == "nf4":
    codes = sum((w / divisor > middle).astype(jnp.uint8) for middle in _MIDDLES)
    scale = most
  else:
    top = _INT_MAX[kind]
    codes = jnp.clip(jnp.round(w / divisor * top), -top, top).astype(jnp.int8)
    scale = most / top
  if kind == "int4":
    codes = (codes + 8).astype(jnp.uint8)
  if kind != "int8":
    low, high = jnp.split(codes, 2, axis=axis + 1)
    codes = low | (high << 4)
  return _joined(codes, axis), scale.squeeze(axis + 1)


def dequantize(
  codes: jax.Array, scale: jax.Array, kind: str, *, size: int, dtype, axis: int = -2
) -> jax.Array:
  """dtype[…, I, O], what `quantize` made of a matrix with I = `size` inputs."""
  axis += codes.ndim
  codes = _cut(codes, axis, scale.shape[axis])
  if kind != "int8":
    codes = jnp.concatenate([codes & 15, codes >> 4], axis=axis + 1)
  if kind == "nf4":
    shares = jax.lax.platform_dependent(codes, cpu=_look_up, default=_select)
  else:
    shares = codes.astype(jnp.float32) - (8 if kind == "int4" else 0)
  w = (shares * jnp.expand_dims(scale, axis + 1)).astype(dtype)
  return jax.lax.slice_in_dim(_joined(w, axis), 0, size, axis=axis)


def _cut(x: jax.Array, axis: int, num_blocks: int) -> jax.Array:
  """The axis as two: blocks, and places in a block."""
  return x.reshape(*x.shape[:axis], num_blocks, -1, *x.shape[axis + 1 :])


def _joined(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of `_cut`."""
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _look_up(codes: jax.Array) -> jax.Array:
  return jnp.take(jnp.asarray(NF4), codes.astype(jnp.int32), axis=0)


def _select(codes: jax.Array) -> jax.Array:
  """The same by the four bits: a gather from a table is many times slower on accelerators."""
  values = [jnp.float32(v) for v in NF4]
  for bit in range(4):
    is_set = ((codes >> bit) & 1) == 1
    values = [
      jnp.where(is_set, high, low) for low, high in zip(values[::2], values[1::2], strict=True)
    ]
  return values[0]
