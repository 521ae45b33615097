"""Attention with a prefix-LM mask; the implementation is chosen by length and device.

B rows, Q query positions, S key positions, N query heads, K key heads, G = N / K, H head dim.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from paligemma_jax.models import cpu
from paligemma_jax.models import kernels

# Larger than any block number: a key that no query attends to (padding, an unused cache slot).
HIDDEN = 2**30

# The logit of a masked key.
MASKED_LOGIT = -2.3819763e38

# The `checkpoint_name` of what attention by rows would otherwise recompute.
KEPT = "attention"

# Above this many logits per head the queries go through in chunks. Measured on CPU, v5e and H100:
# chunks of 512 need 3 to 8 times less memory from 1500 positions on, at equal numbers.
_PLAIN_UP_TO = 512 * 1024
_CHUNK = 512

# From this many positions on "auto" takes the device's kernel. On an H200 cuDNN's took 0.95 of the
# plain time at 1056 positions of the decoder, 0.39 at 1024 of the vision tower.
_FLASH_FROM = 1024

# Attention by rows cuts the logits of a row into pieces of at most so many.
_ROWS_PIECE = 1024 * 1024


class AttentionMask(NamedTuple):
  """Query q attends to key k iff k_block[k] <= q_block[q].

  The prefix is one block, each suffix token the next one. A sliding window of w masks keys of
  earlier blocks that are w or more positions behind. `extra_mask` masks more, where it is False:
  the other answers to the same prompt.

  Shapes: q_block, q_pos int32[B or 1, Q]; k_block, k_pos int32[B or 1, S];
  extra_mask bool[B or 1, Q, S].
  """

  q_block: jax.Array
  k_block: jax.Array
  q_pos: jax.Array
  k_pos: jax.Array
  extra_mask: jax.Array | None = None

  def dense(self, window: jax.Array | None = None) -> jax.Array:
    """bool[B or 1, Q, S]; `window` int32[], absent for none."""
    q_block, k_block = self.q_block[:, :, None], self.k_block[:, None, :]
    seen = k_block <= q_block
    if window is not None:
      near = self.q_pos[:, :, None] - self.k_pos[:, None, :] < window
      seen &= near | (k_block == q_block)
    return seen if self.extra_mask is None else seen & self.extra_mask

  def of_last(self, num: int) -> AttentionMask:
    """The mask of the last `num` queries."""
    extra_mask = None if self.extra_mask is None else self.extra_mask[:, -num:]
    return AttentionMask(
      self.q_block[:, -num:], self.k_block, self.q_pos[:, -num:], self.k_pos, extra_mask
    )


def prefix_lm(mask_ar_BS: jax.Array, valid_BS: jax.Array | None = None) -> AttentionMask:
  """AttentionMask among S positions, and the positions themselves.

  Args:
    mask_ar_BS: int32[B, S]; 0: same block as the position before, 1: a new block.
    valid_BS: bool[B, S]; False masks a position and does not count it. None: all are valid.
  """
  block_BS = jnp.cumsum(mask_ar_BS, axis=1, dtype=jnp.int32)
  if valid_BS is None:
    pos = jnp.arange(mask_ar_BS.shape[1], dtype=jnp.int32)[None]
    return AttentionMask(block_BS, block_BS, pos, pos)
  pos_BS = jnp.maximum(jnp.cumsum(valid_BS, axis=1, dtype=jnp.int32) - 1, 0)
  return AttentionMask(block_BS, jnp.where(valid_BS, block_BS, HIDDEN), pos_BS, pos_BS)


def attend(
  q_BQNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask: AttentionMask | None,
  *,
  softcap: float = 0.0,
  window: jax.Array | None = None,
  implementation: str = "auto",
  chunk: int = 0,
) -> jax.Array:
  """[B, Q, N, H]: softmax(q k) v, logits and softmax in float32, K and V never repeated.

  Args:
    q_BQNH: queries, already scaled; head n reads key head n // (N / K).
    mask: None: every query attends to every key.
    softcap: logits become tanh(logits / softcap) * softcap before masking; 0 is off.
    window: int32[], the sliding window; None for none.
    implementation: "plain": all logits at once; "chunked": those of `chunk` queries at a time;
      "rows": those of one row, or of `chunk` of its queries, at a time; "flash": the device's own
      kernel where it has one for the case, else as "auto"; "auto": by device and length.
    chunk: queries per pass; 0: the implementation's own.
  """
  if implementation in ("auto", "flash"):
    implementation = _chosen(q_BQNH, k_BSKH, mask, softcap, window, flash=implementation == "flash")
  if implementation == "splash":
    blocks = (None, None) if mask is None else (mask.q_block, mask.k_block)
    return kernels.splash(q_BQNH, k_BSKH, v_BSKH, *blocks, hidden=HIDDEN, softcap=softcap)
  if implementation == "cudnn":
    mask_BNQS = None if mask is None else mask.dense()[:, None]
    return jax.nn.dot_product_attention(
      q_BQNH, k_BSKH, v_BSKH, mask=mask_BNQS, scale=1.0, implementation="cudnn"
    )
  if implementation == "rows":
    return _by_rows(q_BQNH, k_BSKH, v_BSKH, mask, softcap, window, chunk)
  chunk = chunk or _CHUNK
  if implementation == "plain" or q_BQNH.shape[1] <= chunk:
    mask_BQS = None if mask is None else mask.dense(window)
    return _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap)
  return _chunked(q_BQNH, k_BSKH, v_BSKH, mask, softcap, window, chunk)


def _chosen(q_BQNH, k_BSKH, mask, softcap, window, *, flash):
  """The implementation for device and length; with `flash` the device's kernel where it has one."""
  q_len, k_len = q_BQNH.shape[1], k_BSKH.shape[1]
  # Kernels want as many queries as keys, so that one token of decoding is not for them.
  whole = q_len == k_len and window is None and (mask is None or mask.extra_mask is None)
  if whole and (flash or q_len >= _FLASH_FROM):
    platform = kernels.platform()
    if platform == "tpu":
      return "splash"
    if platform == "gpu" and kernels.has_cudnn_kernel(q_BQNH, softcap=softcap):
      return "cudnn"
  if cpu.goes_by_rows(q_BQNH, k_len):
    return "rows"
  return "chunked" if q_len * k_len > _PLAIN_UP_TO else "plain"


def _chunked(q_BQNH, k_BSKH, v_BSKH, mask, softcap, window, chunk):
  q_len = q_BQNH.shape[1]
  num_chunks = -(-q_len // chunk)

  def split(x):
    return jnp.moveaxis(_in_pieces(x, num_chunks, chunk), 1, 0)

  # The backward pass recomputes a chunk's logits, so that only one chunk of them ever exists.
  @jax.checkpoint
  def one(xs):
    q_BQNH, of_queries = xs
    mask_BQS = None if mask is None else mask._replace(**of_queries).dense(window)
    return _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap)

  xs = jax.tree.map(split, (q_BQNH, _of_queries(mask)))
  out = jnp.moveaxis(lax.map(one, xs), 0, 1)
  return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :q_len]


def _of_queries(mask):
  """The parts of a mask that have a dim of queries; {} without a mask."""
  return {} if mask is None else {n: getattr(mask, n) for n in ("q_block", "q_pos", "extra_mask")}


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
    logits_BKGQS = jnp.where(mask_BQS[:, None, None], logits_BKGQS, MASKED_LOGIT)
  probs_BKGQS = jax.nn.softmax(logits_BKGQS, axis=-1).astype(v_BSKH.dtype)
  out_BQKGH = jnp.einsum("BKGQS,BSKH->BQKGH", probs_BKGQS, v_BSKH)
  return out_BQKGH.reshape(q_BQNH.shape)


def _in_pieces(x, num, length):
  """[B, num, length, ...] of [B, Q, ...], with zeros behind the last position."""
  x = jnp.pad(x, [(0, 0), (0, num * length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
  return x.reshape(x.shape[0], num, length, *x.shape[2:])


class _Queries(NamedTuple):
  """A piece of a row's queries; without a mask only `q_KXH`."""

  q_KXH: jax.Array
  q_block: jax.Array | None = None
  q_pos: jax.Array | None = None
  extra_mask: jax.Array | None = None


class _Keys(NamedTuple):
  """A row's keys and values."""

  k_KSH: jax.Array
  v_KSH: jax.Array
  k_block: jax.Array | None = None
  k_pos: jax.Array | None = None


class _Softmax(NamedTuple):
  """A piece's output, and of each query the largest logit and the sum of the exponentials."""

  out_KXH: jax.Array
  max_KX1: jax.Array
  sum_KX1: jax.Array


def _by_rows(q_BQNH, k_BSKH, v_BSKH, mask, softcap, window, chunk):
  """One row after the other, C pieces of c = `chunk` queries each (0: as fits); X = G * c.

  Logits stay in the cache, heads stand before positions so that products find their factors as they
  lie, and the backward pass has its own rule: it recomputes the logits, but no softmax, as flash
  attention does (arXiv:2205.14135, algorithm 4).
  """
  batch, q_len, num_heads, head_dim = q_BQNH.shape
  num_kv_heads = k_BSKH.shape[2]
  row_logits = q_len * num_heads * k_BSKH.shape[1]
  chunk = chunk or -(-q_len // -(-row_logits // _ROWS_PIECE))
  num_pieces = -(-q_len // chunk)

  def pieces(x):  # [B or 1, Q, ...] -> [B, C, c, ...]
    x = _in_pieces(x, num_pieces, chunk)
    return jnp.broadcast_to(x, (batch, *x.shape[1:]))

  q_BCcKGH = pieces(q_BQNH.reshape(batch, q_len, num_kv_heads, -1, head_dim))
  q_BCKGcH = q_BCcKGH.transpose(0, 1, 3, 4, 2, 5)
  q_BCKXH = q_BCKGcH.reshape(batch, num_pieces, num_kv_heads, -1, head_dim)
  queries = _Queries(q_BCKXH, **jax.tree.map(pieces, _of_queries(mask)))
  of_keys: tuple[jax.Array | None, ...] = (None, None)
  if mask is not None:
    of_keys = tuple(jnp.broadcast_to(x, (batch, x.shape[1])) for x in (mask.k_block, mask.k_pos))
  keys = _Keys(k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2), *of_keys)
  out_BCKXH = _rows(softcap, queries, keys, window)
  out_BCcKGH = out_BCKXH.reshape(q_BCKGcH.shape).transpose(0, 1, 4, 2, 3, 5)
  return out_BCcKGH.reshape(batch, -1, num_heads, head_dim)[:, :q_len]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(softcap, queries, keys, window):
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
  softmax = jax.tree.map(lambda x: checkpoint_name(x, KEPT), softmax)
  return softmax.out_KXH, (queries, keys, window, softmax)


def _rows_backward(softcap, kept, out_grad_BCKXH):
  queries, keys, window, softmax = kept

  def piece(keys, kv_grads, of_piece):
    queries, softmax, out_grad_KXH = of_piece
    logits_KXS, slope_KXS = _logits(queries, keys, window, softcap)
    probs_KXS = jnp.exp(logits_KXS - softmax.max_KX1) * (1 / softmax.sum_KX1)
    probs_grad_KXS = _times(out_grad_KXH, keys.v_KSH, 2, 2)
    # The mean of the gradients of a query's probabilities, weighted by the probabilities.
    weighted_KXH = softmax.out_KXH.astype(jnp.float32) * out_grad_KXH
    mean_KX1 = weighted_KXH.sum(axis=-1, keepdims=True)
    logits_grad_KXS = probs_KXS * (probs_grad_KXS - mean_KX1) * slope_KXS
    # Masked keys have probability 0, except where all keys are masked.
    logits_grad_KXS *= softmax.max_KX1 > MASKED_LOGIT
    probs_KXS = probs_KXS.astype(out_grad_KXH.dtype)
    logits_grad_KXS = logits_grad_KXS.astype(out_grad_KXH.dtype)
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
  return _Queries(q_grad), _Keys(k_grad, v_grad), None


_rows.defvjp(_rows_forward, _rows_backward)


def _logits(queries, keys, window, softcap):
  """float32[K, X, S] with the mask, and their slope before it where a cap bends them."""
  logits_KXS = _times(queries.q_KXH, keys.k_KSH, 2, 2)
  slope_KXS: jax.Array | float = 1.0
  if softcap:
    capped_KXS = jnp.tanh(logits_KXS / softcap)
    logits_KXS, slope_KXS = capped_KXS * softcap, 1 - jnp.square(capped_KXS)
  if queries.q_block is not None:
    mask = AttentionMask(
      queries.q_block, keys.k_block, queries.q_pos, keys.k_pos, queries.extra_mask
    )
    mask_cS = jax.tree.map(lambda x: x[None], mask).dense(window)[0]
    logits_KGcS = logits_KXS.reshape(logits_KXS.shape[0], -1, *mask_cS.shape)
    masked_KGcS = jnp.where(mask_cS, logits_KGcS, MASKED_LOGIT)
    logits_KXS = masked_KGcS.reshape(logits_KXS.shape)
  return logits_KXS, slope_KXS


def _times(a, b, a_dim, b_dim):
  """Products over one dim of each, for every key head, in float32."""
  dims = (((a_dim,), (b_dim,)), ((0,), (0,)))
  return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
