"""The Gemma decoder, both generations, with the parameter names of the published checkpoints.

  B rows, T tokens, S positions, C cache slots, A answers per row, D width, F hidden, N query
  heads, K key heads, H head dim, L layers, V vocabulary; X = B * T.

Matrix products run on [X, D]: the gradient of a weight then sums over one dimension, which XLA
does 4 times faster on CPU than over B and T, and equally fast elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from paligemma_jax.core import errors
from paligemma_jax.models import attention
from paligemma_jax.models import attention_mask
from paligemma_jax.models import linear
from paligemma_jax.models import variants

_NO_WINDOW = 2**30

_ROPE_BASE = 10_000


class Cache(NamedTuple):
  """Keys and values of the slots so far, and where the next token of each row goes.

  A row's padding keeps its slots and is masked, so no row ever moves. Several answers to a row's
  prompt share the prompt's slots and take turns in the slots after it.

  Shapes: k, v dtype[L, B, C, K, H]; k_block, k_pos int32[B, C]; next_pos, next_block int32[B];
  slot int32[].
  """

  k: jax.Array
  v: jax.Array
  k_block: jax.Array
  k_pos: jax.Array
  next_pos: jax.Array
  next_block: jax.Array
  slot: jax.Array


class Gemma(nn.Module):
  """Embedding, scanned layers, final norm and tied head, each a method.

  Attributes:
    dtype: of matmuls; norms, rotary and softmax are float32.
    remat: what the backward pass recomputes of each layer, see `recomputed`.
    dropout: rate on both residual branches; needs the rng "dropout" when above 0.
    cache_dtype: what keys and values are rounded to before use; None leaves them.
    implementation: as in attention.attend.
  """

  sizes: variants.Gemma
  dtype: Any
  remat: str = "none"
  dropout: float = 0.0
  cache_dtype: Any = None
  implementation: str = "auto"

  def setup(self):
    c = self.sizes
    self.embedder = Embedder(c.vocab_size, c.width)
    self.layers = nn.scan(
      recomputed(Layer, self.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=c.depth,
    )(c, self.dtype, self.dropout, self.cache_dtype, self.implementation)
    self.final_norm = RMSNorm(self.dtype)

  def embed(self, tokens_BT: jax.Array) -> jax.Array:
    """int32[B, T] -> dtype[B, T, D], scaled by sqrt(D); unknown ids give nan."""
    x_BTD = linear.rows(self.embedder(), tokens_BT)
    # sqrt(D) is rounded to the table's dtype.
    return (x_BTD * jnp.sqrt(self.sizes.width).astype(x_BTD.dtype)).astype(self.dtype)

  def __call__(self, x_BSD: jax.Array, mask: attention_mask.AttentionMask) -> tuple[jax.Array, Any]:
    """Runs the layers on a whole sequence.

    Returns:
      dtype[B, S, D] before the final norm, and the (k, v) of all layers, dtype[L, B, S, K, H].
    """
    rope = rotary_angles(mask.q_pos, self.sizes.head_dim)
    return self.layers(x_BSD, None, windows_L(self.sizes, x_BSD.shape[1]), mask, rope, None)

  def extend(
    self, token_BA: jax.Array, cache: Cache, extra_mask_BAC: jax.Array | None
  ) -> tuple[jax.Array, Cache]:
    """float32[B, A, V] and the new cache, see `paligemma.extend`."""

    def put(old_BC, new_B):
      new_BA = jnp.broadcast_to(new_B[:, None], token_BA.shape)
      return lax.dynamic_update_slice(old_BC, new_BA, (0, cache.slot)), new_BA

    k_block, q_block = put(cache.k_block, cache.next_block)
    k_pos, q_pos = put(cache.k_pos, cache.next_pos)
    mask = attention_mask.AttentionMask(q_block, k_block, q_pos, k_pos, extra_mask_BAC)
    rope = rotary_angles(q_pos, self.sizes.head_dim)
    window_L = windows_L(self.sizes, cache.k.shape[2])
    x_BAD, (k_LBAKH, v_LBAKH) = self.layers(
      self.embed(token_BA), (cache.k, cache.v), window_L, mask, rope, cache.slot
    )
    start = (0, 0, cache.slot, 0, 0)
    return self.head(self.norm(x_BAD)), Cache(
      k=lax.dynamic_update_slice(cache.k, k_LBAKH.astype(cache.k.dtype), start),
      v=lax.dynamic_update_slice(cache.v, v_LBAKH.astype(cache.v.dtype), start),
      k_block=k_block,
      k_pos=k_pos,
      next_pos=cache.next_pos + 1,
      next_block=cache.next_block + 1,
      slot=cache.slot + token_BA.shape[1],
    )

  def norm(self, x: jax.Array) -> jax.Array:
    """[..., D] -> dtype[..., D]."""
    return self.final_norm(x)

  def head(self, x: jax.Array) -> jax.Array:
    """dtype[..., D] after the final norm -> float32[..., V], softcapped when the sizes say so.

    This is the one place where the cap is applied: training, prefill and decoding all end here.
    """
    logits = linear.times_table(x, self.embedder())
    cap = self.sizes.final_softcap
    return jnp.tanh(logits / cap) * cap if cap else logits

  def init_all(self, tokens_BT: jax.Array) -> jax.Array:
    """Uses every parameter, for initialization."""
    x_BTD = self.embed(tokens_BT)
    x_BTD, _ = self(x_BTD, attention_mask.prefix_lm(jnp.ones_like(tokens_BT)))
    return self.head(self.norm(x_BTD))


class Embedder(nn.Module):
  """The embedding table, used at both ends."""

  vocab_size: int
  width: int

  @nn.compact
  def __call__(self) -> linear.Kernel:
    # Times sqrt(width) this gives tokens of unit variance.
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)
    return linear.kernel(self, "input_embedding", init, (self.vocab_size, self.width), None)


class Layer(nn.Module):
  """One decoder layer; Gemma 2 also normalises what a branch adds."""

  sizes: variants.Gemma
  dtype: Any
  dropout: float
  cache_dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x_BTD, cached, window, mask, rope, slot):
    """Runs the layer; where `mask` has fewer queries than there are tokens, on the last tokens.

    The others then only give keys and values.

    Args:
      cached, slot: this layer's cache and where the new tokens go, or None.
    """
    c = self.sizes
    y_BTD = RMSNorm(self.dtype, name="pre_attention_norm")(x_BTD)
    y_BTD, kv = Attention(c, self.dtype, self.cache_dtype, self.implementation, name="attn")(
      y_BTD, cached, window, mask, rope, slot
    )
    if c.post_norms:
      y_BTD = RMSNorm(self.dtype, name="post_attention_norm")(y_BTD)
    x_BTD = _last(x_BTD, y_BTD.shape[1]) + self._drop(y_BTD)
    y_BTD = RMSNorm(self.dtype, name="pre_ffw_norm")(x_BTD)
    # The reference drops this branch before its second norm and the other one behind it.
    y_BTD = self._drop(Mlp(c, self.dtype, name="mlp")(y_BTD))
    if c.post_norms:
      y_BTD = RMSNorm(self.dtype, name="post_ffw_norm")(y_BTD)
    return x_BTD + y_BTD, kv

  def _drop(self, y_BTD):
    return nn.Dropout(self.dropout, deterministic=False)(y_BTD) if self.dropout else y_BTD


class Attention(nn.Module):
  """Multi-head attention with shared key heads and rotary positions."""

  sizes: variants.Gemma
  dtype: Any
  cache_dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x_BTD, cached, window, mask, rope, slot):
    """Attends from the last tokens, as many as `mask` has queries."""
    c = self.sizes
    n, k, h, d = c.num_heads, c.num_kv_heads, c.head_dim, c.width
    ws: Iterable[linear.Kernel]
    if n == k:
      ws = Einsum((3, n, d, h), in_axis=2, name="qkv_einsum")(self.dtype)
    else:
      w_NDH = Einsum((n, d, h), in_axis=1, name="q_einsum")(self.dtype)
      ws = (w_NDH, *Einsum((2, k, d, h), in_axis=2, name="kv_einsum")(self.dtype))
    num_queries = mask.q_pos.shape[1]
    x_BQD = _last(x_BTD, num_queries)
    q_BQNH, k_BTKH, v_BTKH = (
      linear.matmul("XD,NDH->XNH", x.reshape(-1, d), w).reshape(*x.shape[:2], -1, h)
      for x, w in zip((x_BQD, x_BTD, x_BTD), ws, strict=True)
    )

    cos, sin = (_last(x, num_queries) for x in rope)
    q_BQNH = rotate(q_BQNH, (cos, sin)) * (h if c.query_scale == "head_dim" else d // n) ** -0.5
    k_BTKH = rotate(k_BTKH, rope)
    if self.cache_dtype is not None:
      k_BTKH, v_BTKH = (x.astype(self.cache_dtype).astype(self.dtype) for x in (k_BTKH, v_BTKH))
    kv = (k_BTKH, v_BTKH)
    if cached is not None:
      k_BTKH, v_BTKH = (
        lax.dynamic_update_slice(old, new.astype(old.dtype), (0, slot, 0, 0)).astype(self.dtype)
        for old, new in zip(cached, kv, strict=True)
      )
    how = dict(softcap=c.attn_softcap, window=window, implementation=self.implementation)
    y_BQNH = attention.attend(q_BQNH, k_BTKH, v_BTKH, mask, **how)
    w_NHD = Einsum((n, h, d), in_axis=(0, 1), name="attn_vec_einsum")(self.dtype)
    y_XD = linear.matmul("XNH,NHD->XD", y_BQNH.reshape(-1, n, h), w_NHD)
    return y_XD.reshape(x_BQD.shape), kv


class Einsum(nn.Module):
  """A weight `w` of any rank; `in_axis` are the axes it sums over."""

  shape: tuple[int, ...]
  in_axis: int | tuple[int, ...]

  @nn.compact
  def __call__(self, dtype: Any) -> linear.Kernel:
    return linear.kernel(self, "w", _fan_in(self.shape, self.in_axis), self.shape, dtype)


class Mlp(nn.Module):
  """gelu(x gate) * (x up), then down."""

  sizes: variants.Gemma
  dtype: Any

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    d, f = self.sizes.width, self.sizes.mlp_dim
    shape = (2, d, f)
    gate_DF, up_DF = linear.kernel(self, "gating_einsum", _fan_in(shape, 1), shape, self.dtype)
    linear_FD = linear.kernel(self, "linear", _fan_in((f, d), 0), (f, d), self.dtype)
    x_XD = x_BTD.reshape(-1, d)
    gate_XF = nn.gelu(linear.matmul("XD,DF->XF", x_XD, gate_DF), approximate=True)
    h_XF = gate_XF * linear.matmul("XD,DF->XF", x_XD, up_DF)
    return linear.matmul("XF,FD->XD", h_XF, linear_FD).reshape(x_BTD.shape)


class RMSNorm(nn.Module):
  """x / rms(x) * (1 + scale), in float32."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale_D = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    y = x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    return (y * (1 + scale_D.astype(jnp.float32))).astype(self.dtype)


def recomputed(layer: type[nn.Module], remat: str) -> type[nn.Module]:
  """The layer class, to be scanned; the backward pass recomputes a part of it.

  none  nothing: most memory
  dots  all but products with parameters and attention_mask.KEPT: less than half the memory for
        about 3 % more operations. On CPU it is also the fastest: what is kept must be written out.
  full  the whole layer: only its input is kept
  """
  if remat == "none":
    return layer
  # The scan keeps the compiler from merging the recomputation with the forward pass.
  return nn.remat(layer, prevent_cse=False, policy=errors.pick(POLICIES, remat, "remat policy"))


POLICIES = {
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(attention_mask.KEPT),
  ),
  "full": None,
}


def windows_L(sizes: variants.Gemma, num_keys: int) -> jax.Array | None:
  """int32[L], the sliding window of each layer; None where none is shorter than the keys."""
  if not 0 < sizes.sliding_window < num_keys:
    return None
  return jnp.where(jnp.arange(sizes.depth) % 2 == 0, sizes.sliding_window, _NO_WINDOW)


def rotary_angles(pos_BT: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
  """cos and sin of the angles, each float32[B, T, 1, H / 2]."""
  wavelength = _ROPE_BASE ** (2 * jnp.arange(head_dim // 2, dtype=jnp.float32) / head_dim)
  angle = pos_BT[..., None, None].astype(jnp.float32) / wavelength
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BTNH: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotary positions on the halves (x1, x2), in float32; dtype as x."""
  cos, sin = rope
  x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  y_BTNH = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
  return y_BTNH.astype(x_BTNH.dtype)


def _last(x: jax.Array, num: int) -> jax.Array:
  """The last positions: [B, T, ...] -> [B, num, ...]."""
  return x if x.shape[1] == num else x[:, -num:]


def _fan_in(shape: tuple[int, ...], in_axis: int | tuple[int, ...]) -> Any:
  """Normal with variance 1 / (number of inputs)."""
  in_axes = (in_axis,) if isinstance(in_axis, int) else in_axis
  out_axes = tuple(i for i in range(len(shape)) if i not in in_axes)
  return nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axes, out_axes)
