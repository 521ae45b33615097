"""Which matrices of a model are kept packed, and the way there and back by parameter name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.models import linear
from paligemma_jax.models import params as param_table
from paligemma_jax.models import quantize
from paligemma_jax.models import variants


def packed(cfg: variants.ModelConfig, names: Iterable[str]) -> list[str]:
  """The published names of what is kept packed, sorted.

  Raises:
    ConfigError: an unknown kind, or a regex that matches no matrix.
  """
  if not cfg.packed:
    return []
  errors.pick(dict.fromkeys(quantize.KINDS), cfg.packed, "model.packed")
  able = [name for name in names if name in (*param_table.MATRICES, param_table.INPUT_EMBEDDING)]
  return sorted(trees.matches(cfg.packed_names, able, "model.packed_names"))


def pack(name: str, kind: str, w: jax.Array) -> dict[str, jax.Array]:
  """{name: array} of the codes and scales of a parameter, or of some of its first dim."""
  if name == param_table.INPUT_EMBEDDING:
    parts = quantize.pack(w, kind, axis=-1)
  else:
    parts = quantize.pack(linear.flat(name, w), kind)
  return dict(zip(linear.packed_names(name, kind), parts, strict=True))


def unpack(
  name: str, kind: str, codes: jax.Array, scale: jax.Array, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
  """dtype[shape] in the published layout: a parameter, or some of its first dim."""
  if name == param_table.INPUT_EMBEDDING:
    return quantize.unpack(codes, scale, kind, size=shape[-1], dtype=dtype, axis=-1)
  return linear.unflat(name, _unpack_flat(name, kind, codes, scale, shape, dtype), shape)


def lengths(
  cfg: variants.ModelConfig, params: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> jax.Array:
  """float32[…, O], the length of each output's weights in a matrix, packed or not.

  Args:
    shape: of the published parameter.
  """

  def of(parts):
    if len(parts) == 1:
      w_IO = linear.flat(name, parts[0].astype(jnp.float32))
    else:
      w_IO = _unpack_flat(name, cfg.packed, *parts, shape, jnp.float32)
    return jnp.linalg.norm(w_IO, axis=-2)

  names = (name,) if name in params else linear.packed_names(name, cfg.packed)
  parts = tuple(params[n] for n in names)
  if not linear.num_stacked(name):
    return of(parts)
  # Layer by layer, so that never all of them are in float32.
  return jax.lax.map(lambda layer: of(tuple(part[None] for part in layer))[0], parts)


def published(name: str) -> tuple[str, str]:
  """(published name, kind) of a packed leaf's name; (name, "") of any other."""
  stem = name.removesuffix("_scale")
  for kind in quantize.KINDS:
    if stem.endswith(f"_{kind}"):
      return stem.removesuffix(f"_{kind}"), kind
  return name, ""


def _unpack_flat(name, kind, codes, scale, shape, dtype):
  _, inputs, _ = linear.in_out(name, shape)
  return quantize.unpack(codes, scale, kind, size=math.prod(inputs), dtype=dtype)
