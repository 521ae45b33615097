"""Matrix-product operations of a traced program, loops counted as often as they run.

A compiler's own count sees the body of a loop once, and our layers are a loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matmul_flops(jaxpr: Any) -> int:
  """2 x multiply-adds of every matrix product and convolution, over all devices.

  Of branches the most expensive counts; the body of a loop of unknown length counts once.

  Args:
    jaxpr: Jaxpr or ClosedJaxpr, as of `jitted.trace(…).jaxpr`.
  """
  if isinstance(jaxpr, core.ClosedJaxpr):
    jaxpr = jaxpr.jaxpr
  return sum(_of(eqn) for eqn in jaxpr.eqns)


def _of(eqn: Any) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[dim] for dim in contracted)
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval.shape
    out_dim = params["dimension_numbers"].rhs_spec[0]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // kernel[out_dim]
  if name == "cond":
    return max(matmul_flops(branch) for branch in params["branches"])
  inner = sum(matmul_flops(jaxpr) for jaxpr in _inner(params))
  if name == "scan":
    return params["length"] * inner
  if name == "pallas_call":
    return math.prod(params["grid_mapping"].grid) * inner
  if name == "shard_map":  # Its body is what one device does.
    return params["mesh"].size * inner
  return inner


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
        yield item
