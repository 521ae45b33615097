"""Attention with a prefix-LM mask; the implementation is chosen by length and device.

B rows, Q query positions, S key positions, N query heads, K key heads, G = N / K, H head dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from paligemma_jax.models import attention_mask
from paligemma_jax.models import cpu
from paligemma_jax.models import kernels

# Above this many logits per head the queries go through in chunks. Measured on CPU, v5e and H100:
# chunks of 512 need 3 to 8 times less memory from 1500 positions on, at equal numbers.
_PLAIN_UP_TO = 512 * 1024
_CHUNK = 512

# From this many positions on "auto" takes the device's kernel. On an H200 cuDNN's took 0.95 of the
# plain time at 1056 positions of the decoder, 0.39 at 1024 of the vision tower.
_FLASH_FROM = 1024


@jax.named_scope("attention")
def attend(
  q_BQNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask: attention_mask.AttentionMask | None,
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
    return kernels.splash(
      q_BQNH, k_BSKH, v_BSKH, *blocks, hidden=attention_mask.HIDDEN, softcap=softcap
    )
  if implementation == "cudnn":
    mask_BNQS = None if mask is None else mask.dense()[:, None]
    return jax.nn.dot_product_attention(
      q_BQNH, k_BSKH, v_BSKH, mask=mask_BNQS, scale=1.0, implementation="cudnn"
    )
  if implementation == "rows":
    return cpu.attend_by_rows(q_BQNH, k_BSKH, v_BSKH, mask, softcap, window, chunk)
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
    return jnp.moveaxis(attention_mask.in_pieces(x, num_chunks, chunk), 1, 0)

  # The backward pass recomputes a chunk's logits, so that only one chunk of them ever exists.
  @jax.checkpoint
  def one(xs):
    q_BQNH, of_queries = xs
    mask_BQS = None if mask is None else mask._replace(**of_queries).dense(window)
    return _plain(q_BQNH, k_BSKH, v_BSKH, mask_BQS, softcap)

  xs = jax.tree.map(split, (q_BQNH, attention_mask.of_queries(mask)))
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
    logits_BKGQS = jnp.where(mask_BQS[:, None, None], logits_BKGQS, attention_mask.MASKED_LOGIT)
  probs_BKGQS = jax.nn.softmax(logits_BKGQS, axis=-1).astype(v_BSKH.dtype)
  out_BQKGH = jnp.einsum("BKGQS,BSKH->BQKGH", probs_BKGQS, v_BSKH)
  return out_BQKGH.reshape(q_BQNH.shape)
