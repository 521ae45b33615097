"""Adam whose two moments take a byte each: blockwise dynamic codes (arXiv:2110.02861).

Blocks of at most 256 numbers along a leaf's last dim share a float32 scale, the largest of them;
each number is a code for a share of it. The 256 shares are those of the paper: seven decades, the
decade below 1 divided the finest, with 0 and 1. The first moment has signed codes. Of the second
moment the root is coded, which halves its range, and never as 0 unless it is 0: Adam divides by it.

Leaves below 4096 numbers keep float32 moments, as in the published implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BLOCK = 256
MIN_SIZE = 4096
_DECADES = 7


class State(NamedTuple):
  """The state of `scale_by_adam8bit`: how many updates, int32[], and what is kept of each leaf."""

  count: jax.Array  # type: ignore[assignment]  # A tuple has a method of that name.
  mu: dict[str, jax.Array]  # uint8 codes of the mean of gradients; float32 where the leaf is small.
  nu: dict[str, jax.Array]  # Codes of the root of the mean of squares; that mean where it is small.
  mu_scale: dict[str, jax.Array]  # float32[..., num_blocks]; only coded leaves have one.
  nu_scale: dict[str, jax.Array]

  def kept(self, name: str) -> tuple[jax.Array, ...]:
    """What is kept of a leaf: (mu, nu), or (mu, nu, mu_scale, nu_scale) of a coded one."""
    return tuple(part[name] for part in self[1:] if name in part)

  @classmethod
  def of(cls, count: jax.Array, kept: Mapping[str, tuple[jax.Array, ...]]) -> State:
    """The state whose `kept(name)` are these."""
    parts = ({n: k[i] for n, k in kept.items() if i < len(k)} for i in range(4))
    return cls(count, *parts)


class Adam8bit(NamedTuple):
  """Adam's direction for a flat dict of parameters, and for a part of one of them.

  init: (params) -> State.
  update: (gradients, state, params=None) -> (directions, State), as optax has it.
  part: (gradient, kept, count) -> (direction, kept). `kept` is what `State.kept` has of a leaf, or
    any part of it of whole blocks; count is that of the update, from 1 on.
  """

  init: Callable[..., State]
  update: Callable[..., tuple[dict[str, jax.Array], State]]
  part: Callable[..., tuple[jax.Array, tuple[jax.Array, ...]]]


def scale_by_adam8bit(*, b1: float, b2: float, eps: float) -> Adam8bit:
  """The rule with Adam's constants."""

  def init(params):
    coded = {name: p for name, p in params.items() if p.size >= MIN_SIZE}
    small = {name: jnp.zeros(p.shape) for name, p in params.items() if name not in coded}
    zero_mu, zero_nu = np.uint8(127), np.uint8(0)
    scales = {name: jnp.zeros(_scale_shape(p.shape)) for name, p in coded.items()}
    return State(
      count=jnp.zeros((), jnp.int32),
      mu={**small, **{name: jnp.full(p.shape, zero_mu) for name, p in coded.items()}},
      nu={**small, **{name: jnp.full(p.shape, zero_nu) for name, p in coded.items()}},
      mu_scale=scales,
      nu_scale=scales,
    )

  def update(gradients, state, params=None):
    del params
    count = state.count + 1
    directions, kept = {}, {}
    for name, g in gradients.items():
      directions[name], kept[name] = part(g, state.kept(name), count)
    return directions, State.of(count, kept)

  def part(g, kept, count):
    if len(kept) == 2:
      mu, nu = kept
      direction, mu, nu = moved(g, mu, nu, count)
      return direction, (mu, nu)
    mu, nu, mu_scale, nu_scale = kept
    mu = _unblock(decode_signed(mu), mu_scale)
    nu = jnp.square(_unblock(decode_unsigned(nu), nu_scale))
    direction, mu, nu = moved(g, mu, nu, count)
    mu, mu_scale = _block(mu)
    nu, nu_scale = _block(jnp.sqrt(nu))
    return direction, (encode_signed(mu), encode_unsigned(nu), mu_scale, nu_scale)

  def moved(g, mu, nu, count):
    g = g.astype(jnp.float32)
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * jnp.square(g)
    debiased = mu / (1 - b1**count), nu / (1 - b2**count)
    return debiased[0] / (jnp.sqrt(debiased[1]) + eps), mu, nu

  return Adam8bit(init, update, part)


def decode_signed(code: jax.Array) -> jax.Array:
  """uint8 -> float32 in [-1, 1], rising with the code; 127 is 0, 255 is 1."""
  n = code.astype(jnp.int32) - 127
  return jnp.sign(n) * _share(jnp.abs(n), first=1)


def decode_unsigned(code: jax.Array) -> jax.Array:
  """uint8 -> float32 in [0, 1], rising with the code; 255 is 1."""
  return _share(code.astype(jnp.int32), first=2)


def encode_signed(share: jax.Array) -> jax.Array:
  """float32 in [-1, 1] -> uint8, the nearest of the 256."""
  n = jnp.sign(share).astype(jnp.int32) * _nearest(jnp.abs(share), first=1)
  # -1 itself has no code, so that there is one for 0.
  return (jnp.maximum(n, -127) + 127).astype(jnp.uint8)


def encode_unsigned(share: jax.Array) -> jax.Array:
  """float32 in [0, 1] -> uint8, the nearest of the 256; what is above 0 never becomes 0."""
  n = _nearest(share, first=2)
  return jnp.where((n == 0) & (share > 0), 1, n).astype(jnp.uint8)


def _share(n: jax.Array, *, first: int) -> jax.Array:
  """The n-th share: 0, the middles of `first`, 2 `first`, 4 `first`, … steps of a decade each, 1.

  Computed and not looked up: accelerators are slow at tables.
  """
  q = jnp.maximum(n + (first - 1), first)
  # Exponent and mantissa of q are the decade and the place in it.
  exponent = (lax.bitcast_convert_type(q.astype(jnp.float32), jnp.int32) >> 23) - 127
  steps = jnp.left_shift(1, exponent)
  place = (q - steps + 0.5) / steps
  share = _end_of_decade(steps, first) * (0.1 + 0.9 * place)
  share = jnp.where(n == 0, 0.0, share)
  return jnp.where(n == first * _ALL_STEPS + 1, 1.0, share).astype(jnp.float32)


def _nearest(share: jax.Array, *, first: int) -> jax.Array:
  """int32, the n whose `_share` is nearest."""
  steps = jnp.full(jnp.shape(share), first, jnp.int32)
  for k, ten in enumerate(_TENS[:-1]):
    # Half way between the last middle of a decade and the first of the next, which is finer.
    steps = jnp.where(share >= ten * (1 + 0.9 / (first * 2**k)), first * 2 ** (k + 1), steps)
  place = jnp.floor((share / _end_of_decade(steps, first) - 0.1) / 0.9 * steps).astype(jnp.int32)
  n = 1 + steps - first + jnp.clip(place, 0, steps - 1)
  n = jnp.where(share < 0.5 * _TENS[0] * (0.1 + 0.45 / first), 0, n)
  most = first * _ALL_STEPS + 1
  return jnp.where(share > 1 - 0.225 / (first * 2 ** (_DECADES - 1)), most, n)


def _end_of_decade(steps: jax.Array, first: int) -> jax.Array:
  """The power of ten that ends the decade of so many steps."""
  end = jnp.full(jnp.shape(steps), _TENS[0])
  for k, ten in enumerate(_TENS):
    end = jnp.where(steps == first * 2**k, ten, end)
  return end


_TENS = [float(10.0**-k) for k in range(_DECADES - 1, -1, -1)]
_ALL_STEPS = 2**_DECADES - 1


def _scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  return (*shape[:-1], -(-shape[-1] // BLOCK))


def _block(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Shares in [-1, 1] of x's shape, and the blocks' scales."""
  num_blocks = _scale_shape(x.shape)[-1]
  extra = num_blocks * BLOCK - x.shape[-1]
  padded = jnp.pad(jnp.abs(x), [(0, 0)] * (x.ndim - 1) + [(0, extra)]) if extra else jnp.abs(x)
  scale = padded.reshape(*x.shape[:-1], num_blocks, BLOCK).max(axis=-1)
  return x / _spread(jnp.where(scale == 0, 1.0, scale), x.shape[-1]), scale


def _unblock(share: jax.Array, scale: jax.Array) -> jax.Array:
  return share * _spread(scale, share.shape[-1])


def _spread(scale: jax.Array, size: int) -> jax.Array:
  """Each block's scale at each of its numbers."""
  return jnp.repeat(scale, BLOCK, axis=-1)[..., :size]
