"""Trains the mask codec, in JAX; `regions.mask_codec` says what it is.

Parameters are a flat dict by published name, in the published shapes. Training is that
of VQ-VAEs (arXiv 1711.00937): the decoder's gradient passes straight through the codes, encoder
outputs are drawn to their codes (commitment), codes are running means of the outputs nearest to
them (its appendix A.1), and a code that hardly anything is near to starts anew at a random output.
The first steps are without codes: where outputs lie is learned before they are clustered.

  N masks, S side in pixels, C channels, D width of a code, K codes; X = N * 16
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paligemma_jax.regions import mask_codec

Params = Mapping[str, jax.Array]

_DIMENSIONS = ("NHWC", "OIHW", "NHWC")
_RARE = 0.02  # A code with less than this share of an even share is dead.


class State(NamedTuple):
  """Training state."""

  params: dict[str, jax.Array]  # All but the codebook is trained by gradients.
  opt: optax.OptState
  counts: jax.Array  # float32[K], running number of outputs per step nearest to each code.
  sums: jax.Array  # float32[K, D], running sum of those outputs.


def init(key: jax.Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, jax.Array]:
  """Random float32 parameters (He's normal; biases 0) of these shapes."""
  params = {}
  for i, (name, shape) in enumerate(shapes.items()):
    fan_in = math.prod(shape[1:])
    if name.removesuffix(".weight") in mask_codec.UP:
      fan_in = shape[0] * 4  # Of the 4 x 4 taps, 2 x 2 meet at a pixel.
    noise = jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)
    params[name] = noise * (2 / fan_in) ** 0.5 if len(shape) > 1 else jnp.zeros(shape)
  return params


class Codec(mask_codec.MaskCodec):
  """The codec in JAX, to be traced."""

  def relu(self, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)

  def conv(self, x: jax.Array, name: str, stride: int = 1) -> jax.Array:
    weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
    strides = (stride, stride)
    x = jax.lax.conv_general_dilated(x, weight, strides, "SAME", dimension_numbers=_DIMENSIONS)
    return x + bias

  def up(self, x: jax.Array, name: str) -> jax.Array:
    """As one matmul, then sums of shifted taps: with XLA's own, which spreads the input out with
    zeros, the whole training step takes 1.7 times as long on a CPU.
    """
    weight = self.weights[f"{name}.weight"]  # (in, out, ky, kx)
    num, side, _, channels = x.shape
    matrix = weight.transpose(0, 2, 3, 1).reshape(channels, -1)
    taps = (x.reshape(-1, channels) @ matrix).reshape(num, side, side, 4, 4, -1)
    columns = _interleave(taps, axis=2, tap_axis=4)  # [N, H, 2 W, ky, C]
    return _interleave(columns, axis=1, tap_axis=3) + self.weights[f"{name}.bias"]


def train(
  recipe: mask_codec.CodecRecipe,
  batches: Iterator[np.ndarray],
  report: Callable[[int, dict[str, float]], None],
) -> dict[str, np.ndarray]:
  """Trained parameters by published name.

  Args:
    batches: float32[N, 64, 64] in [-1, 1], at least `recipe.steps` of them.
    report: called with the step and its `loss` and `codes` (how many are in use), now and then.
  """
  key = jax.random.key(recipe.seed)
  params = init(key, recipe.shapes())
  optimizer = optax.adam(optax.warmup_cosine_decay_schedule(
      0.0, recipe.lr, recipe.steps // 50 + 1, recipe.steps
  ))  # fmt: skip
  state = State(
    params,
    optimizer.init(_by_gradient(params)),
    jnp.zeros(recipe.num_codes),
    jnp.zeros((recipe.num_codes, recipe.code_dim)),
  )
  step = jax.jit(functools.partial(_step, recipe, optimizer), static_argnames="coded",
                 donate_argnums=0)  # fmt: skip
  for i in range(recipe.steps):
    coded = i >= recipe.plain_steps
    state, metrics = step(state, next(batches), jax.random.fold_in(key, i), coded=coded)
    if i + 1 == recipe.steps or (i + 1) % recipe.report_every == 0:
      report(i + 1, {name: float(value) for name, value in metrics.items()})
  return {name: np.asarray(value) for name, value in state.params.items()}


def _step(
  recipe: mask_codec.CodecRecipe,
  optimizer: optax.GradientTransformation,
  state: State,
  masks_NSS: jax.Array,
  key: jax.Array,
  *,
  coded: bool,
) -> tuple[State, dict[str, jax.Array]]:
  codebook_KD = state.params[mask_codec.CODEBOOK]

  def loss_of(trained: Params):
    codec = Codec({**trained, mask_codec.CODEBOOK: codebook_KD})
    z_NHWC = codec.outputs(masks_NSS)
    z_XD = z_NHWC.reshape(-1, codebook_KD.shape[1])
    codes_X = codec.nearest(jax.lax.stop_gradient(z_XD))
    chosen_NHWC, commitment = z_NHWC, jnp.float32(0.0)
    if coded:
      code_NHWC = codebook_KD[codes_X].reshape(z_NHWC.shape)
      commitment = jnp.mean((z_NHWC - code_NHWC) ** 2)
      chosen_NHWC = z_NHWC + jax.lax.stop_gradient(code_NHWC - z_NHWC)
    painted = codec.paint(chosen_NHWC)
    # Squared hinge, less where the edge runs through a pixel: of what is painted only signs count.
    error = jnp.mean(jax.nn.relu(jnp.abs(masks_NSS) - painted * masks_NSS) ** 2)
    return error + recipe.commitment * commitment, (error, z_XD, codes_X)

  trained = _by_gradient(state.params)
  grads, (error, z_XD, codes_X) = jax.grad(loss_of, has_aux=True)(trained)
  updates, opt = optimizer.update(grads, state.opt, trained)
  params = {**state.params, **optax.apply_updates(trained, updates)}
  counts, sums = state.counts, state.sums
  if coded:
    counts, sums = _running_means(recipe, counts, sums, z_XD, codes_X, key)
    params[mask_codec.CODEBOOK] = sums / counts[:, None]
  used = jnp.zeros(len(counts), bool).at[codes_X].set(True).sum()
  return State(params, opt, counts, sums), {"loss": error, "codes": used}


def _running_means(recipe, counts_K, sums_KD, z_XD, codes_X, key):
  one_hot_XK = jax.nn.one_hot(codes_X, len(counts_K))
  counts_K = recipe.decay * counts_K + (1 - recipe.decay) * one_hot_XK.sum(axis=0)
  sums_KD = recipe.decay * sums_KD + (1 - recipe.decay) * (one_hot_XK.T @ z_XD)
  even_share = len(z_XD) / len(counts_K)
  dead_K = counts_K < _RARE * even_share
  anew_KD = z_XD[jax.random.choice(key, len(z_XD), (len(counts_K),), replace=False)]
  counts_K = jnp.where(dead_K, even_share, counts_K)
  return counts_K, jnp.where(dead_K[:, None], anew_KD * even_share, sums_KD)


def _by_gradient(params: Params) -> dict[str, jax.Array]:
  return {name: value for name, value in params.items() if name != mask_codec.CODEBOOK}


def _interleave(x: jax.Array, *, axis: int, tap_axis: int) -> jax.Array:
  """One axis of `up`: output 2i sums tap 1 of i and 3 of i - 1; 2i + 1 tap 2 of i, 0 of i + 1."""
  taps = [jax.lax.index_in_dim(x, k, tap_axis, keepdims=False) for k in range(4)]
  length = x.shape[axis]
  zero = jnp.zeros_like(jax.lax.slice_in_dim(taps[0], 0, 1, axis=axis))
  before = jnp.concatenate([zero, jax.lax.slice_in_dim(taps[3], 0, length - 1, axis=axis)], axis)
  after = jnp.concatenate([jax.lax.slice_in_dim(taps[0], 1, length, axis=axis), zero], axis)
  both = jnp.stack([taps[1] + before, taps[2] + after], axis + 1)
  return both.reshape(*both.shape[:axis], 2 * length, *both.shape[axis + 2 :])
