"""Attention from the structure of a prefix-LM mask; how it is worked out is chosen by length.

B rows, Q query positions, S key positions, N query heads, K key heads, G = N / K, H head dim.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from paligemma_jax.models import kernels
from paligemma_jax.models import remat

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

# One CPU goes by rows from so many logits a row on, and cuts them into pieces of at most so many.
# Forward and backward that takes 0.5 of the plain way's time at 288 positions, and 0.3 to 0.6 of
# that of chunks at a thousand (8 rows, 8 and 4 heads of 64). Shorter ones gain nothing that would
# make up for a second more of tracing and compiling.
_ROWS_FROM = 256 * 1024
_ROWS_PIECE = 1024 * 1024

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
    return Visibility(self.q_block[:, -num:], self.k_block, self.q_pos[:, -num:], self.k_pos, only)


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
    how: "plain": all logits at once; "chunked": those of `chunk` queries at a time; "rows": those
      of one row, or of `chunk` of its queries, at a time; "flash": by the device's own kernel where
      it has one for the case, else as "auto"; "auto": by device and length.
    chunk: queries per pass; 0: as suits the device.
  """
  q_len, k_len = q_BQNH.shape[1], k_BSKH.shape[1]
  row_logits = q_BQNH.shape[2] * q_len * k_len
  if how in ("auto", "flash"):
    long = q_len * k_len > _PLAIN_UP_TO
    # Kernels want as many queries as keys, so that one token of decoding is not for them.
    whole = q_len == k_len and window is None and (see is None or see.only is None)
    if whole and (how == "flash" or q_len >= _FLASH_FROM):
      kernel = _kernel(q_BQNH, softcap)
      if kernel == "tpu":
        blocks = (None, None) if see is None else (see.q_block, see.k_block)
        return kernels.splash(q_BQNH, k_BSKH, v_BSKH, *blocks, hidden=HIDDEN, softcap=softcap)
      if kernel == "gpu":
        return kernels.cudnn(q_BQNH, k_BSKH, v_BSKH, None if see is None else see.mask())
    how = "chunked" if long else "plain"
    if kernels.is_one_cpu() and row_logits >= _ROWS_FROM:
      how = "rows"
  if how == "rows":
    chunk = chunk or -(-q_len // -(-row_logits // _ROWS_PIECE))
    return _by_rows(q_BQNH, k_BSKH, v_BSKH, see, softcap, window, chunk)
  if not chunk:
    chunk = _CHUNK
    if kernels.on_cpu():
      fitting = _CPU_CHUNK // (q_BQNH.shape[0] * q_BQNH.shape[2] * k_len)
      chunk = min(chunk, max(_CPU_LEAST_CHUNK, fitting))
  if how == "plain" or q_len <= chunk:
    mask_BQS = None if see is None else see.mask(window)
    return _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap)
  return _chunked(q_BQNH, k_BSKH, v_BSKH, see, softcap, window, chunk)


def _kernel(q_BSNH, softcap):
  """Whose kernel to use, "" for nobody's."""
  whose = kernels.platform()
  if whose == "gpu" and not kernels.has_cudnn_kernel(q_BSNH, softcap=softcap):
    return ""
  return whose


def _chunked(q_BQNH, k_BSKH, v_BSKH, see, softcap, window, chunk):
  q_len = q_BQNH.shape[1]
  num_chunks = -(-q_len // chunk)

  def split(x):
    return jnp.moveaxis(_in_pieces(x, num_chunks, chunk), 1, 0)

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


def _in_pieces(x, num, length):
  """[B, num, length, ...] of [B, Q, ...], with zeros behind the last position."""
  x = jnp.pad(x, [(0, 0), (0, num * length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
  return x.reshape(x.shape[0], num, length, *x.shape[2:])


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


class _Queries(NamedTuple):
  """A piece of a row's queries. Who they are is absent where everyone sees everyone."""

  q_KXH: jax.Array
  block_c: jax.Array | None
  pos_c: jax.Array | None
  only_cS: jax.Array | None


class _Keys(NamedTuple):
  """A row's keys and values."""

  k_KSH: jax.Array
  v_KSH: jax.Array
  block_S: jax.Array | None
  pos_S: jax.Array | None


class _Softmax(NamedTuple):
  """A piece's output, and of each query the largest logit and the sum of the exponentials."""

  out_KXH: jax.Array
  max_KX1: jax.Array
  sum_KX1: jax.Array


def _by_rows(q_BQNH, k_BSKH, v_BSKH, see, softcap, window, chunk):
  """One row after the other, C pieces of c = `chunk` queries each; X = G * c.

  Logits stay in the cache, heads stand before positions so that products find their factors as they
  lie, and the backward pass has its own rule: it works the logits out again, but no softmax, as
  flash attention does (arXiv:2205.14135, algorithm 4).
  """
  batch, q_len, num_heads, head_dim = q_BQNH.shape
  num_kv_heads = k_BSKH.shape[2]
  num_pieces = -(-q_len // chunk)

  def pieces(x):  # [B or 1, Q, ...] -> [B, C, c, ...]
    x = _in_pieces(x, num_pieces, chunk)
    return jnp.broadcast_to(x, (batch, *x.shape[1:]))

  q_BCcKGH = pieces(q_BQNH.reshape(batch, q_len, num_kv_heads, -1, head_dim))
  q_BCKGcH = q_BCcKGH.transpose(0, 1, 3, 4, 2, 5)
  q_BCKXH = q_BCKGcH.reshape(batch, num_pieces, num_kv_heads, -1, head_dim)
  of_queries, of_keys = (None, None, None), (None, None)
  if see is not None:
    only = None if see.only is None else pieces(see.only)
    of_queries = pieces(see.q_block), pieces(see.q_pos), only
    of_keys = (jnp.broadcast_to(x, (batch, x.shape[1])) for x in (see.k_block, see.k_pos))
  queries = _Queries(q_BCKXH, *of_queries)
  keys = _Keys(k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2), *of_keys)
  out_BCKXH = _attend_by_rows(softcap, queries, keys, window)
  out_BCcKGH = out_BCKXH.reshape(q_BCKGcH.shape).transpose(0, 1, 4, 2, 3, 5)
  return out_BCcKGH.reshape(batch, -1, num_heads, head_dim)[:, :q_len]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_by_rows(softcap, queries, keys, window):
  """[B, C, K, X, H]; `queries` begin with the dims B and C, `keys` with B."""
  return _rows_forward(softcap, queries, keys, window)[0]


def _rows_forward(softcap, queries, keys, window):
  def piece(keys, queries):
    logits_KXS, _ = _logits(queries, keys, window, softcap)
    max_KX1 = logits_KXS.max(axis=-1, keepdims=True)
    weights_KXS = jnp.exp(logits_KXS - max_KX1)
    sum_KX1 = weights_KXS.sum(axis=-1, keepdims=True)
    out_KXH = _times(weights_KXS.astype(keys.v_KSH.dtype), keys.v_KSH, 2, 1) / sum_KX1
    return _Softmax(out_KXH.astype(keys.v_KSH.dtype), max_KX1, sum_KX1)

  def row(of_row):
    queries, keys = of_row
    return lax.map(functools.partial(piece, keys), queries)

  softmax = lax.map(row, (queries, keys))
  softmax = jax.tree.map(lambda x: checkpoint_name(x, remat.KEPT), softmax)
  return softmax.out_KXH, (queries, keys, window, softmax)


def _rows_backward(softcap, kept, out_grad_BCKXH):
  queries, keys, window, softmax = kept

  def piece(keys, kv_grads, of_piece):
    queries, softmax, out_grad_KXH = of_piece
    logits_KXS, slope_KXS = _logits(queries, keys, window, softcap)
    probs_KXS = jnp.exp(logits_KXS - softmax.max_KX1) * (1 / softmax.sum_KX1)
    probs_grad_KXS = _times(out_grad_KXH, keys.v_KSH, 2, 2)
    # What the gradients of a query's probabilities come to, each weighed by its probability.
    weighed_KXH = softmax.out_KXH.astype(jnp.float32) * out_grad_KXH
    mean_KX1 = weighed_KXH.sum(axis=-1, keepdims=True)
    logits_grad_KXS = probs_KXS * (probs_grad_KXS - mean_KX1) * slope_KXS
    # Masked keys have no probability, but where a query sees nothing.
    logits_grad_KXS *= softmax.max_KX1 > _MASKED_LOGIT
    probs_KXS, logits_grad_KXS = (
      x.astype(out_grad_KXH.dtype) for x in (probs_KXS, logits_grad_KXS)
    )
    k_grad_KSH, v_grad_KSH = kv_grads
    k_grad_KSH += _times(logits_grad_KXS, queries.q_KXH, 1, 1)
    v_grad_KSH += _times(probs_KXS, out_grad_KXH, 1, 1)
    q_grad_KXH = _times(logits_grad_KXS, keys.k_KSH, 2, 1)
    return (k_grad_KSH, v_grad_KSH), q_grad_KXH.astype(queries.q_KXH.dtype)

  def row(of_row):
    keys, *of_pieces = of_row
    zeros = jnp.zeros(keys.k_KSH.shape, jnp.float32)
    kv_grads, q_grad = lax.scan(functools.partial(piece, keys), (zeros, zeros), tuple(of_pieces))
    return q_grad, *(x.astype(keys.k_KSH.dtype) for x in kv_grads)

  q_grad, k_grad, v_grad = lax.map(row, (keys, queries, softmax, out_grad_BCKXH))
  return _Queries(q_grad, None, None, None), _Keys(k_grad, v_grad, None, None), None


_attend_by_rows.defvjp(_rows_forward, _rows_backward)


def _logits(queries, keys, window, softcap):
  """float32[K, X, S] with the mask, and their slope before it where a cap bends them."""
  logits_KXS = _times(queries.q_KXH, keys.k_KSH, 2, 2)
  slope_KXS = 1.0
  if softcap:
    capped_KXS = jnp.tanh(logits_KXS / softcap)
    logits_KXS, slope_KXS = capped_KXS * softcap, 1 - jnp.square(capped_KXS)
  if queries.block_c is not None:
    of_row = queries.block_c, keys.block_S, queries.pos_c, keys.pos_S, queries.only_cS
    mask_cS = Visibility(*(None if x is None else x[None] for x in of_row)).mask(window)[0]
    logits_KGcS = logits_KXS.reshape(logits_KXS.shape[0], -1, *mask_cS.shape)
    logits_KXS = jnp.where(mask_cS, logits_KGcS, _MASKED_LOGIT).reshape(logits_KXS.shape)
  return logits_KXS, slope_KXS


def _times(a, b, a_dim, b_dim):
  """Products over one dim of each, for every key head, in float32."""
  dims = (((a_dim,), (b_dim,)), ((0,), (0,)))
  return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
