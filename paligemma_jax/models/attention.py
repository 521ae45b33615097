"""Attention from the structure of a prefix-LM mask; how it is worked out is chosen by length.

  B rows, Q query positions, S key positions, N query heads, K key heads, G = N / K, H head dim.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from paligemma_jax.models import flash

# Larger than any block number: a key that nobody sees (padding, an unused cache slot).
HIDDEN = 2**30

_MASKED_LOGIT = -2.3819763e38

# Above this many logits per head the queries go through in chunks. Measured on CPU, v5e and H100:
# chunks of 512 need 3 to 8 times less memory from 1500 positions on, at equal numbers.
_PLAIN_UP_TO = 512 * 1024
_CHUNK = 512

# On CPU logits that leave the cache cost more than the products: chunks of about 2 MiB of them take
# 0.37 of the time of 512 queries, backward too (4352 positions, 4 heads of 32).
_CPU_CHUNK = 512 * 1024
_CPU_LEAST_CHUNK = 16

# From this many positions on "auto" takes the device's kernel. On an H200 cuDNN's took 0.95 of the
# plain way's time at 1056 positions of the decoder, 0.39 at 1024 of the tower.
_FLASH_FROM = 1024


class Visibility(NamedTuple):
  """Who sees whom: query q sees key k iff k_block[k] <= q_block[q].

  The prefix is one block, each suffix token the next one. A sliding window of w hides keys of
  earlier blocks that are w or more positions behind. `only`, where there is one, hides more: what
  other answers to the same prompt said.

  Shapes: q_block, q_pos int32[B or 1, Q]; k_block, k_pos int32[B or 1, S]; only bool[B or 1, Q, S].
  """

  q_block: jax.Array
  k_block: jax.Array
  q_pos: jax.Array
  k_pos: jax.Array
  only: jax.Array | None = None

  def mask(self, window: jax.Array | None = None) -> jax.Array:
    """bool[B or 1, Q, S]; `window` int32[], absent for none."""
    q_block, k_block = self.q_block[:, :, None], self.k_block[:, None, :]
    seen = k_block <= q_block
    if window is not None:
      near = self.q_pos[:, :, None] - self.k_pos[:, None, :] < window
      seen &= near | (k_block == q_block)
    return seen if self.only is None else seen & self.only

  def of_last(self, num: int) -> Visibility:
    """What the last queries see."""
    only = None if self.only is None else self.only[:, -num:]
    return Visibility(
        self.q_block[:, -num:], self.k_block, self.q_pos[:, -num:], self.k_pos, only
    )


def prefix_lm(mask_ar_BS: jax.Array, valid_BS: jax.Array | None = None) -> Visibility:
  """Visibility among S positions, and the positions themselves.

  Args:
    mask_ar_BS: int32[B, S]; 0: same block as the position before, 1: a new block.
    valid_BS: bool[B, S]; False hides a position and does not count it. Absent: all are valid.
  """
  block_BS = jnp.cumsum(mask_ar_BS, axis=1, dtype=jnp.int32)
  if valid_BS is None:
    pos = jnp.arange(mask_ar_BS.shape[1], dtype=jnp.int32)[None]
    return Visibility(block_BS, block_BS, pos, pos)
  pos_BS = jnp.maximum(jnp.cumsum(valid_BS, axis=1, dtype=jnp.int32) - 1, 0)
  return Visibility(block_BS, jnp.where(valid_BS, block_BS, HIDDEN), pos_BS, pos_BS)


def attend(
    q_BQNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    see: Visibility | None,
    *,
    softcap: float = 0.0,
    window: jax.Array | None = None,
    how: str = "auto",
    chunk: int = 0,
) -> jax.Array:
  """[B, Q, N, H]: softmax(q k) v, logits and softmax in float32, K and V never repeated.

  Args:
    q_BQNH: queries, already scaled; head n reads key head n // (N / K).
    see: who sees whom; absent: everyone everyone.
    softcap: logits become tanh(logits / softcap) * softcap before masking; 0 is off.
    window: int32[], the sliding window; absent for none.
    how: "plain": all logits at once; "chunked": those of `chunk` queries at a time; "flash": by the
      device's own kernel where it has one for the case, else as "auto"; "auto": by length.
    chunk: queries per pass; 0: as suits the device.
  """
  q_len, k_len = q_BQNH.shape[1], k_BSKH.shape[1]
  if how in ("auto", "flash"):
    long = q_len * k_len > _PLAIN_UP_TO
    # Kernels want as many queries as keys, so that one token of decoding is not for them.
    whole = q_len == k_len and window is None and (see is None or see.only is None)
    if whole and (how == "flash" or q_len >= _FLASH_FROM):
      kernel = _kernel(q_BQNH, softcap)
      if kernel == "tpu":
        blocks = (None, None) if see is None else (see.q_block, see.k_block)
        return flash.splash(q_BQNH, k_BSKH, v_BSKH, *blocks, hidden=HIDDEN, softcap=softcap)
      if kernel == "gpu":
        return flash.cudnn(q_BQNH, k_BSKH, v_BSKH, None if see is None else see.mask())
    how = "chunked" if long else "plain"
  if not chunk:
    chunk = _CHUNK
    if flash.on_cpu():
      fitting = _CPU_CHUNK // (q_BQNH.shape[0] * q_BQNH.shape[2] * k_len)
      chunk = min(chunk, max(_CPU_LEAST_CHUNK, fitting))
  if how == "plain" or q_len <= chunk:
    mask_BQS = None if see is None else see.mask(window)
    return _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap)
  return _chunked(q_BQNH, k_BSKH, v_BSKH, see, softcap, window, chunk)


def _kernel(q_BSNH, softcap):
  """Whose kernel to use, "" for nobody's."""
  whose = flash.platform()
  if whose == "gpu" and not flash.has_cudnn_kernel(q_BSNH, softcap=softcap):
    return ""
  return whose


def _chunked(q_BQNH, k_BSKH, v_BSKH, see, softcap, window, chunk):
  q_len = q_BQNH.shape[1]
  num_chunks = -(-q_len // chunk)

  def split(x, q_axis=1):
    pad = [(0, 0)] * x.ndim
    pad[q_axis] = (0, num_chunks * chunk - q_len)
    x = jnp.pad(x, pad)
    x = x.reshape(*x.shape[:q_axis], num_chunks, chunk, *x.shape[q_axis + 1 :])
    return jnp.moveaxis(x, q_axis, 0)

  # The backward pass recomputes a chunk's logits, so that only one chunk of them ever exists.
  @jax.checkpoint
  def one(xs):
    q_BQNH, q_block, q_pos, only = xs
    mask_BQS = None
    if see is not None:
      mask_BQS = see._replace(q_block=q_block, q_pos=q_pos, only=only).mask(window)
    return _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap)

  xs = (split(q_BQNH), None, None, None)
  if see is not None:
    only = None if see.only is None else split(see.only)
    xs = (xs[0], split(see.q_block), split(see.q_pos), only)
  out = jnp.moveaxis(lax.map(one, xs), 0, 1)
  return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :q_len]


def _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap):
  batch, q_len, num_heads, head_dim = q_BQNH.shape
  num_kv_heads = k_BSKH.shape[2]
  q_BQKGH = q_BQNH.reshape(batch, q_len, num_kv_heads, num_heads // num_kv_heads, head_dim)
  logits_BKGQS = jnp.einsum(
      "BQKGH,BSKH->BKGQS", q_BQKGH, k_BSKH, preferred_element_type=jnp.float32
  )
  if softcap:
    logits_BKGQS = jnp.tanh(logits_BKGQS / softcap) * softcap
  if mask_BQS is not None:
    logits_BKGQS = jnp.where(mask_BQS[:, None, None], logits_BKGQS, _MASKED_LOGIT)
  probs_BKGQS = jax.nn.softmax(logits_BKGQS, axis=-1).astype(v_BSKH.dtype)
  out_BQKGH = jnp.einsum("BKGQS,BSKH->BQKGH", probs_BKGQS, v_BSKH)
  return out_BQKGH.reshape(q_BQNH.shape)
