"""How the next token is chosen: greedy, by temperature, from the k best, or from a nucleus.

B rows, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from paligemma_jax.core import errors

# A sampler takes float32[B, V] logits and one key per row, and returns int32[B].
Sampler = Callable[[jax.Array, jax.Array], jax.Array]

_PATTERN = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


def parse(text: str) -> Sampler:
  """The sampler named by `text`.

    "greedy"              the most likely token
    "temperature(t)"      softmax(logits / t)
    "top_k(k, t)"         the same among the k most likely tokens; t may be left out: 1
    "nucleus(p, t)"       the same among the fewest most likely tokens that have probability p at
                          temperature t (top-p)
    "draw(k, p, t)"       the same among those of the k most likely ones; k of 0: all, p of 1: all

  Raises:
    ConfigError: no such sampler, or a number out of its range.
  """
  match = _PATTERN.fullmatch(text)
  if not match:
    raise errors.ConfigError(
      f"sampler {text!r} is not of the form 'greedy', 'temperature(0.7)', 'top_k(40, 0.7)' or"
      " 'nucleus(0.9, 0.7)'."
    )
  make, most = errors.pick(_SAMPLERS, match[1], "sampler")
  try:
    numbers = [float(x) for x in match[2].split(",")] if (match[2] or "").strip() else []
  except ValueError:
    raise errors.ConfigError(f"sampler {text!r}: its arguments are not numbers.") from None
  if not min(most, 1) <= len(numbers) <= most:
    raise errors.ConfigError(f"sampler {text!r} has {len(numbers)} arguments; it takes {most}.")
  if most and (numbers[-1] if len(numbers) == most else 1.0) <= 0:
    raise errors.ConfigError(f"sampler {text!r}: the temperature must be above 0; use 'greedy'.")
  return make(text, *numbers)


def _greedy(text: str) -> Sampler:
  del text
  return lambda logits_BV, keys_B: jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def _temperature(text: str, temperature: float) -> Sampler:
  del text
  return lambda logits_BV, keys_B: _draw(logits_BV / temperature, keys_B)


def _top_k(text: str, k: float, temperature: float = 1.0) -> Sampler:
  _check_k(text, k, least=1)

  def sample(logits_BV, keys_B):
    return _draw(_without_unlikely(logits_BV, int(k)) / temperature, keys_B)

  return sample


def _nucleus(text: str, p: float, temperature: float = 1.0) -> Sampler:
  if not 0 < p <= 1:
    raise errors.ConfigError(f"sampler {text!r}: p must be in (0, 1].")

  def sample(logits_BV, keys_B):
    logits_BV = logits_BV / temperature
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    # A token stays when those before it do not have p yet; so the first always stays.
    stays_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < p
    lowest_B1 = jnp.min(jnp.where(stays_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return _draw(jnp.where(logits_BV >= lowest_B1, logits_BV, -jnp.inf), keys_B)

  return sample


def _top_k_and_p(text: str, k: float, p: float = 1.0, temperature: float = 1.0) -> Sampler:
  _check_k(text, k, least=0)
  if not 0 < p <= 1:
    raise errors.ConfigError(f"sampler {text!r}: p must be in (0, 1].")

  def sample(logits_BV, keys_B):
    logits_BV = logits_BV / temperature
    if k:
      logits_BV = _without_unlikely(logits_BV, int(k))
    return _nucleus(text, p)(logits_BV, keys_B) if p < 1 else _draw(logits_BV, keys_B)

  return sample


def _check_k(text: str, k: float, *, least: int) -> None:
  if not (least <= k < 1 << 31) or k != int(k):
    raise errors.ConfigError(f"sampler {text!r}: k must be a whole number of at least {least}.")


def _without_unlikely(logits_BV: jax.Array, k: int) -> jax.Array:
  # By place, not by value: of equal logits the first ones stay, and no more than k.
  places_BK = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[1]
  rows_B1 = jnp.arange(len(logits_BV))[:, None]
  stays_BV = jnp.zeros(logits_BV.shape, bool).at[rows_B1, places_BK].set(True)
  return jnp.where(stays_BV, logits_BV, -jnp.inf)


def _draw(logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
  return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


# name: (maker, number of arguments; the temperature is the last and, when not the only, optional)
_SAMPLERS = {
  "greedy": (_greedy, 0),
  "temperature": (_temperature, 1),
  "top_k": (_top_k, 2),
  "nucleus": (_nucleus, 2),
  "draw": (_top_k_and_p, 3),
}
