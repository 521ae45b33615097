"""Products with the parameters that are matrices: as they are, quantized, or with an adapter.

A module asks for its `kernel` and multiplies by it with `matmul`. What lies beside the published
leaf in the parameters decides the rest, so no module knows of adapters or quantization:

    q_einsum/w                          the matrix itself
    q_einsum/w_nf4, w_nf4_scale         quantized, in place of it (quantize.py)
    q_einsum/lora_a, lora_b             a low-rank addition (lora.py)
    q_einsum/w:offset                   zeros in the compute dtype, to differentiate by

A leaf that is not called `w` or `kernel` lends its name: mlp/linear, mlp/linear_lora_a.

XLA folds the zeros of an offset away; training/step.py says what they are for.

  X rows, I inputs, O outputs, r rank; "…" any stack in front (layers; keys and values).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.models import cpu
from paligemma_jax.models import param_table
from paligemma_jax.models import quantize
from paligemma_jax.models import variants

ADAPTER = ("lora_a", "lora_b", "lora_magnitude")
OFFSET = ":offset"
_DROPOUT = ("lora_key", "lora_keep")  # Beside an adapter while its inputs are dropped.


def beside(name: str, part: str) -> str:
  """The name of an adapter's part beside the matrix `name`."""
  folder, _, leaf = name.rpartition("/")
  return f"{folder}/{_stem(leaf)}{part}"


def quantized_names(name: str, kind: str) -> tuple[str, str]:
  """The names of the codes and scales of a matrix quantized as `kind`."""
  return f"{name}_{kind}", f"{name}_{kind}_scale"


def num_stacked(name: str) -> int:
  """How many dims of a matrix are in front of those that a product uses."""
  return param_table.MATRICES[name].count("s")


def with_offsets(names: Iterable[str]) -> list[str]:
  """The parameters that an offset may stand in for in differentiation: matrices of layers."""
  return [name for name in names if name in param_table.MATRICES and num_stacked(name)]


def in_out(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
  """(stack, input, output) sizes of a matrix."""
  roles = param_table.MATRICES[name]
  return tuple(tuple(n for n, r in zip(shape, roles, strict=True) if r == x) for x in "sio")


def flat(name: str, w: Any) -> Any:
  """[…, I, O] of a matrix, NumPy or JAX, in the published layout."""
  roles = param_table.MATRICES[name]
  order = sorted(range(len(roles)), key=lambda dim: "sio".index(roles[dim]))
  stack, _, out = (tuple(w.shape[d] for d in range(len(roles)) if roles[d] == x) for x in "sio")
  return w.transpose(order).reshape(*stack, -1, math.prod(out))


def unflat(name: str, w: Any, shape: tuple[int, ...]) -> Any:
  """The inverse of `flat`: a matrix of this published shape, or some of its stack."""
  roles = param_table.MATRICES[name][len(param_table.MATRICES[name]) - len(shape) :]
  order = sorted(range(len(roles)), key=lambda dim: "sio".index(roles[dim]))
  w = w.reshape([shape[d] for d in order])
  return w.transpose([order.index(d) for d in range(len(shape))])


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A matrix as the parameters hold it.

  Its parts are "w" for the published leaf, or "codes" and "scale", and what lies beside them; each
  has the stack in front, if there is a stack.
  """

  shape: tuple[int, ...]  # In the published layout.
  dtype: Any  # Of products.
  parts: Mapping[str, jax.Array]
  kind: str = ""  # Of quantization; "" for none.

  def __iter__(self) -> Iterator[Kernel]:
    """The weights stacked in the first dim."""
    for i in range(self.shape[0]):
      yield Kernel(self.shape[1:], self.dtype, {k: v[i] for k, v in self.parts.items()}, self.kind)


def kernel(module: nn.Module, leaf: str, init: Any, shape: tuple[int, ...], dtype: Any) -> Kernel:
  """The module's parameter `leaf` with all that lies beside it."""
  found = {part: _stem(leaf) + part for part in (*ADAPTER, *_DROPOUT)}
  found["offset"] = leaf + OFFSET
  kind = next((k for k in quantize.KINDS if module.has_variable("params", f"{leaf}_{k}")), "")
  if kind:
    found["codes"], found["scale"] = quantized_names(leaf, kind)
  parts: dict[str, jax.Array] = {
    part: module.get_variable("params", name)
    for part, name in found.items()
    if module.has_variable("params", name)
  }
  if not kind:
    parts["w"] = module.param(leaf, init, shape)
  return Kernel(shape, dtype, parts, kind)


def rows(table: Kernel, ids: jax.Array) -> jax.Array:
  """[..., D], rows of the embedding table [V, D]; unknown ids give nan.

  They are read as they are kept, so an offset acts at the head alone; float32 when quantized.
  """
  if not table.kind:
    return jnp.take(table.parts["w"], ids, axis=0)
  codes, scale = (jnp.take(table.parts[part], ids, axis=0) for part in ("codes", "scale"))
  size = table.shape[1]
  return quantize.dequantize(codes, scale, table.kind, size=size, dtype=jnp.float32, axis=-1)


def times_table(x: jax.Array, table: Kernel) -> jax.Array:
  """float32[..., V] of dtype[..., D] and the embedding table."""
  if not table.kind:
    table_VD = _rounded(table.parts, x.dtype)
    if "offset" in table.parts:
      x, table_VD = _table_gradient_first(x, table_VD)
    return cpu.times_table(x, table_VD)

  @jax.checkpoint
  def multiply(x, codes, scale):
    size = table.shape[1]
    table_VD = quantize.dequantize(codes, scale, table.kind, size=size, dtype=x.dtype, axis=-1)
    return cpu.times_table(x, table_VD)

  return multiply(x, table.parts["codes"], table.parts["scale"])


def matmul(equation: str, x: jax.Array, w: Kernel) -> jax.Array:
  """einsum(equation, x, w), plus what an adapter adds.

  Args:
    equation: as "XNH,NHD->XD": one dim of rows, then the inputs; the rows, then the outputs.
  """
  of_x, of_w = equation.partition("->")[0].split(",")
  out = [size for size, dim in zip(w.shape, of_w, strict=True) if dim not in of_x]
  x_XI = x.reshape(x.shape[0], -1)
  parts, dtype = w.parts, w.dtype
  if w.kind:
    y = _quantized_matmul(x_XI, w).reshape(-1, *out)
  else:
    y = jnp.einsum(equation, x, _rounded(parts, dtype))
  if "lora_a" not in parts:
    return y
  a_Ir = parts["lora_a"].reshape(x_XI.shape[1], -1)
  b_rO = parts["lora_b"].reshape(a_Ir.shape[1], -1)
  if "lora_keep" in parts:
    keep = parts["lora_keep"]
    kept = jax.random.bernoulli(jax.random.wrap_key_data(parts["lora_key"]), keep, x_XI.shape)
    x_XI = jnp.where(kept, x_XI / keep.astype(x_XI.dtype), 0)
  y += ((x_XI @ a_Ir.astype(dtype)) @ b_rO.astype(dtype)).reshape(y.shape)
  if "lora_magnitude" in parts:
    w_IO = _flat_f32(equation, w, x_XI.shape[1])
    norm_O = jnp.linalg.norm(w_IO + a_Ir @ b_rO, axis=0)
    # As in the paper (arXiv:2402.09353, section 4.3) the norm is taken as a constant.
    gain_O = parts["lora_magnitude"].reshape(-1) / jax.lax.stop_gradient(norm_O)
    y = (y.astype(jnp.float32) * gain_O.reshape(out)).astype(dtype)
  return y


def quantized(model_config: variants.ModelConfig, names: Iterable[str]) -> list[str]:
  """The published names of the quantized matrices, sorted.

  Raises:
    ConfigError: an unknown kind, or a regex that matches no matrix.
  """
  if not model_config.quantize:
    return []
  errors.pick(dict.fromkeys(quantize.KINDS), model_config.quantize, "model.quantize")
  able = [name for name in names if name in (*param_table.MATRICES, param_table.INPUT_EMBEDDING)]
  return sorted(trees.matches(model_config.quantize_targets, able, "model.quantize_targets"))


def quantize_param(name: str, kind: str, w: jax.Array) -> dict[str, jax.Array]:
  """{name: array} of the codes and scales of a parameter, or of some of its first dim."""
  if name == param_table.INPUT_EMBEDDING:
    parts = quantize.quantize(w, kind, axis=-1)
  else:
    parts = quantize.quantize(flat(name, w), kind)
  return dict(zip(quantized_names(name, kind), parts, strict=True))


def dequantize_param(
  name: str, kind: str, codes: jax.Array, scale: jax.Array, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
  """dtype[shape], the inverse of `quantize_param`."""
  if name == param_table.INPUT_EMBEDDING:
    return quantize.dequantize(codes, scale, kind, size=shape[-1], dtype=dtype, axis=-1)
  return unflat(name, _dequantize_flat(name, kind, codes, scale, shape, dtype), shape)


def output_norms(
  model_config: variants.ModelConfig, params: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> jax.Array:
  """float32[…, O], the norms of the outputs' weights in a matrix of this published shape."""

  def of(parts):
    if len(parts) == 1:
      w_IO = flat(name, parts[0].astype(jnp.float32))
    else:
      codes, scale = parts
      w_IO = _dequantize_flat(name, model_config.quantize, codes, scale, shape, jnp.float32)
    return jnp.linalg.norm(w_IO, axis=-2)

  names = (name,) if name in params else quantized_names(name, model_config.quantize)
  parts = tuple(params[n] for n in names)
  if not num_stacked(name):
    return of(parts)
  # Layer by layer, so that never all of them are in float32.
  return jax.lax.map(lambda layer: of(tuple(part[None] for part in layer))[0], parts)


def published_name(name: str) -> tuple[str, str]:
  """(published name, kind) of a quantized leaf's name; (name, "") of any other."""
  stem, _, kind = name.removesuffix("_scale").rpartition("_")
  return (stem, kind) if kind in quantize.KINDS else (name, "")


def _rounded(parts, dtype):
  """The matrix in the compute dtype; with an offset, differentiated by the offset alone."""
  w = parts["w"].astype(dtype)
  return jax.lax.stop_gradient(w) + parts["offset"] if "offset" in parts else w


@jax.custom_vjp
def _table_gradient_first(x, w):
  """x and w; the backward pass goes on along x only when the gradient of w is computed.

  Else the compiler may put off the gradient of the embedding table to the end, and keep that of the
  logits, which is larger, through the backward pass of all layers.
  """
  return x, w


_table_gradient_first.defvjp(
  lambda x, w: ((x, w), None), lambda _, gradients: jax.lax.optimization_barrier(gradients)
)


def _quantized_matmul(x_XI, w):
  # The backward pass dequantizes again, so the matrix is never kept.
  @jax.checkpoint
  def multiply(x_XI, codes, scale):
    return x_XI @ quantize.dequantize(codes, scale, w.kind, size=x_XI.shape[1], dtype=w.dtype)

  return multiply(x_XI, w.parts["codes"], w.parts["scale"])


def _flat_f32(equation, w, num_inputs):
  """float32[I, O]."""
  if w.kind:
    codes, scale = w.parts["codes"], w.parts["scale"]
    return quantize.dequantize(codes, scale, w.kind, size=num_inputs, dtype=jnp.float32)
  inputs, letters = equation.partition("->")[0].split(",")
  order = sorted(range(len(letters)), key=lambda dim: letters[dim] not in inputs)
  return w.parts["w"].astype(jnp.float32).transpose(order).reshape(num_inputs, -1)


def _stem(leaf: str) -> str:
  return "" if leaf in ("w", "kernel") else f"{leaf}_"


def _dequantize_flat(name, kind, codes, scale, shape, dtype):
  _, inputs, _ = in_out(name, shape)
  return quantize.dequantize(codes, scale, kind, size=math.prod(inputs), dtype=dtype)
