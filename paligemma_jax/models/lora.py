"""Low-rank adapters (LoRA, arXiv:2106.09685; rsLoRA, 2312.03732; DoRA, 2402.09353) on any matrix.

An adapter adds scale * A B to a matrix: A has its inputs and the rank, B the rank and its outputs,
each with the matrix's stack in front; keys and values, gate and up have their own. They stand
beside the matrix under names made from its own (`linear.beside`) and are parameters like any
other: regexes decide what is trainable, at which rate, and where it lies.

  "…" the stack, I inputs, O outputs, r rank.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.models import linear
from paligemma_jax.models import param_table
from paligemma_jax.models import variants


def targets(lora: variants.Lora, names: Iterable[str]) -> list[str]:
  """The matrices that get an adapter, sorted.

  Raises:
    ConfigError: a regex of `lora.targets` matches no matrix.
  """
  if not lora.rank:
    return []
  names = [name for name in names if name in param_table.MATRICES]
  if not lora.targets:
    raise errors.ConfigError("lora.rank is set but lora.targets is empty; name matrices by regex.")
  return sorted(trees.matches(lora.targets, names, "lora.targets"))


def create(
  lora: variants.Lora,
  shapes: Mapping[str, tuple[int, ...]],
  lengths: Callable[[str], jax.Array],
  key: jax.Array,
) -> dict[str, jax.Array]:
  """Fresh float32 adapters that change nothing yet: B is 0, DoRA's magnitude that of the matrix.

  Args:
    shapes: of all published parameters.
    lengths: name -> float32[…, O] of a matrix's outputs, asked for DoRA alone.
    key: of A, which is uniform within 1 / sqrt(I) as PEFT has it.
  """
  found = {}
  for name in targets(lora, shapes):
    stack, inputs, out = linear.in_out(name, shapes[name])
    own_key = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    limit, shape = math.prod(inputs) ** -0.5, (*stack, *inputs, lora.rank)
    found[linear.beside(name, "lora_a")] = jax.random.uniform(own_key, shape, float, -limit, limit)
    found[linear.beside(name, "lora_b")] = jnp.zeros((*stack, lora.rank, *out))
    if lora.dora:
      found[linear.beside(name, "lora_magnitude")] = lengths(name).reshape(*stack, *out)
  return found


def ready(
  lora: variants.Lora, params: Mapping[str, jax.Array], key: jax.Array | None = None
) -> dict[str, jax.Array]:
  """The parameters as modules take them: B times the scale, beside it keys of dropout, if any."""
  if not lora.rank:
    return dict(params)
  found = dict(params)
  for name in param_table.MATRICES:
    b = linear.beside(name, "lora_b")
    if b not in params:
      continue
    found[b] = params[b] * jnp.asarray(lora.scale, params[b].dtype)
    if lora.dropout and key is not None:
      stack = params[b].shape[: linear.num_stacked(name)]
      own_key = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
      keys = jax.random.split(own_key, stack) if stack else own_key
      found[linear.beside(name, "lora_key")] = jax.random.key_data(keys)
      found[linear.beside(name, "lora_keep")] = jnp.full(stack, 1 - lora.dropout)
  return found


def is_adapter(name: str) -> bool:
  """True for the names that `create` makes."""
  return name.endswith(linear.ADAPTER)


def merged(
  lora: variants.Lora,
  name: str,
  w: np.ndarray,
  a: np.ndarray,
  b: np.ndarray,
  magnitude: np.ndarray | None = None,
) -> np.ndarray:
  """float32, the published matrix `name` with its adapter in it, or the same part of all stacks."""
  w_IO = linear.flat(name, np.asarray(w, np.float32))
  num_in, num_out = w_IO.shape[-2:]
  stack = w_IO.shape[:-2]
  a_Ir = np.asarray(a, np.float32).reshape(*stack, num_in, -1)
  b_rO = np.asarray(b, np.float32).reshape(*stack, -1, num_out)
  w_IO = w_IO + a_Ir @ (np.float32(lora.scale) * b_rO)
  if magnitude is not None:
    norm = np.linalg.norm(w_IO, axis=-2, keepdims=True)
    w_IO = w_IO * (np.asarray(magnitude, np.float32).reshape(*stack, 1, num_out) / norm)
  return linear.unflat(name, w_IO, w.shape)
