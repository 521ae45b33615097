"""The code paths of a single CPU: other ways to the same numbers, chosen here and nowhere else.

The model files are written for an accelerator and ask `in_use`, `has_room` or `goes_by_rows`, all
of them False on any other device, on several CPU devices and inside `off`. What each saves, in
processor time on two cores ("mid" is that of tools/bench/models.py, the demo's step that of
transfers/demo.py):

  goes_by_rows      0.5 to 1 of the 10 s of a step of mid; the demo's sequences are too short for it
  has_room          6 % of the demo's step, 10 % of one with 6 layers of 512
  times_table       7 % of decoding a token of mid, whose table has 257152 rows
  compiler_options  0.5 of the 3.6 GB of a step of mid

B rows, Q query positions, N query heads, H head dim, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from paligemma_jax.models import attention_mask
from paligemma_jax.models import kernels

# Up to so many rows the table stands on the left of the head's product: XLA:CPU is faster so.
_FEW_ROWS = 32

# Weights of layers are copied up to this size in bytes.
_ROOM_FOR_LAYERS = 2**30

# Attention goes by rows from so many logits a row on. Forward and backward that takes 0.5 of the
# plain way's time at 288 positions, and 0.3 to 0.6 of that of chunks at a thousand (8 rows, 8 and 4
# heads of 64). Shorter ones gain less than the second that tracing and compiling takes.
_ROWS_FROM = 256 * 1024

# Attention by rows cuts the logits of a row into pieces of at most so many.
_ROWS_PIECE = 1024 * 1024

# Embedding tables of so many numbers and more are large.
_LARGE_TABLE = 2**24
_FOR_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

_OFF: contextvars.ContextVar[bool] = contextvars.ContextVar("off", default=False)


@contextlib.contextmanager
def off() -> Iterator[None]:
  """What is traced in here takes an accelerator's code paths; tests compare the two."""
  token = _OFF.set(True)
  try:
    yield
  finally:
    _OFF.reset(token)


def in_use() -> bool:
  """Whether what is traced is for a single CPU device."""
  return kernels.devices() == ("cpu", 1) and not _OFF.get()


def is_cpu(mesh: Mesh) -> bool:
  """Whether the devices are CPUs, one or several."""
  return mesh.devices.flat[0].platform == "cpu"


def has_room(layers: Any) -> bool:
  """Whether these layers, a tree of arrays, may be copied to run the last one by itself."""
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(layers))
  return in_use() and size <= _ROOM_FOR_LAYERS


def goes_by_rows(q_BQNH: jax.Array, k_len: int) -> bool:
  """Whether attention of these queries over so many keys takes one row after the other."""
  return in_use() and math.prod(q_BQNH.shape[1:3]) * k_len >= _ROWS_FROM


def compiler_options(mesh: Mesh, table: jax.Array | None) -> dict[str, str] | None:
  """Options of XLA for a step on this mesh in which the embedding table trains (None: does not).

  By default XLA:CPU computes the table's gradient as early as it can, for parallelism, and keeps it
  while the layers run backward. Where it is large, one product keeps the threads busy anyway.
  """
  large = table is not None and table.size >= _LARGE_TABLE
  return _FOR_MEMORY if large and is_cpu(mesh) else None


def times_table(x: jax.Array, table_VD: jax.Array) -> jax.Array:
  """float32[..., V] of x [..., D]."""
  if not in_use() or math.prod(x.shape[:-1]) > _FEW_ROWS:
    return jnp.einsum("...D,VD->...V", x, table_VD, preferred_element_type=jnp.float32)
  y = jnp.einsum("VD,...D->V...", table_VD, x, preferred_element_type=jnp.float32)
  # Else the compiler transposes the operands instead of the result.
  return jnp.moveaxis(lax.optimization_barrier(y), 0, -1)


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


def attend_by_rows(q_BQNH, k_BSKH, v_BSKH, mask, softcap, window, chunk):
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
    x = attention_mask.in_pieces(x, num_pieces, chunk)
    return jnp.broadcast_to(x, (batch, *x.shape[1:]))

  q_BCcKGH = pieces(q_BQNH.reshape(batch, q_len, num_kv_heads, -1, head_dim))
  q_BCKGcH = q_BCcKGH.transpose(0, 1, 3, 4, 2, 5)
  q_BCKXH = q_BCKGcH.reshape(batch, num_pieces, num_kv_heads, -1, head_dim)
  queries = _Queries(q_BCKXH, **jax.tree.map(pieces, attention_mask.of_queries(mask)))
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
  softmax = jax.tree.map(lambda x: checkpoint_name(x, attention_mask.KEPT), softmax)
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
    logits_grad_KXS *= softmax.max_KX1 > attention_mask.MASKED_LOGIT
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
    mask = attention_mask.AttentionMask(
      queries.q_block, keys.k_block, queries.q_pos, keys.k_pos, queries.extra_mask
    )
    mask_cS = jax.tree.map(lambda x: x[None], mask).dense(window)[0]
    logits_KGcS = logits_KXS.reshape(logits_KXS.shape[0], -1, *mask_cS.shape)
    masked_KGcS = jnp.where(mask_cS, logits_KGcS, attention_mask.MASKED_LOGIT)
    logits_KXS = masked_KGcS.reshape(logits_KXS.shape)
  return logits_KXS, slope_KXS


def _times(a, b, a_dim, b_dim):
  """Products over one dim of each, for every key head, in float32."""
  dims = (((a_dim,), (b_dim,)), ((0,), (0,)))
  return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
