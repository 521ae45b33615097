"""A run's parameters as published: adapters in their matrices, nothing quantized, leaf by leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from paligemma_jax.checkpoint import reader
from paligemma_jax.models import linear
from paligemma_jax.models import lora
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants


def is_plain(names: Mapping[str, Any]) -> bool:
  """True where all names are published ones."""
  return not any(lora.is_adapter(name) or paligemma.is_quantized(name) for name in names)


def weights(model_config: variants.ModelConfig, tuned: reader.Weights) -> reader.Weights:
  """The same weights under the published names; what is merged or unpacked is float32.

  Args:
    model_config: of the run.
    tuned: under the names of `paligemma.param_shapes(model_config)`.
  """
  if is_plain(tuned.entries):
    return tuned
  shapes = {name: leaf.shape for name, leaf in paligemma.param_shapes(model_config.plain()).items()}
  found = tuned.entries
  entries = {
    name: reader.Entry(shape, found[name].dtype if _as_is(name, found) else np.dtype("float32"))
    for name, shape in shapes.items()
  }

  def blocks(name: str) -> Iterator[np.ndarray]:
    if _as_is(name, found):
      yield from tuned.blocks(name)
    else:
      parts = {part: tuned.read(part) for part in _parts(name, found)}
      yield from _blocks(model_config, name, shapes[name], parts)

  return dataclasses.replace(tuned, entries=entries, blocks=blocks)


class Leaf:
  """One parameter of a state as it is published; it exists only where it is sliced.

  Attributes:
    shape, dtype: as an array's.
  """

  def __init__(
    self, model_config: variants.ModelConfig, name: str, shape, parts: Mapping[str, Any]
  ):
    self.shape = tuple(shape)
    self.dtype = np.dtype(np.float32)
    self._cfg, self._name, self._parts = model_config, name, parts

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Some of the first dim."""
    part = {name: np.asarray(leaf[rows]) for name, leaf in self._parts.items()}
    num_rows = len(range(*rows.indices(self.shape[0])))
    return _merged(self._cfg, self._name, (num_rows, *self.shape[1:]), part)


def published(model_config: variants.ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
  """{published name: array, or Leaf} of parameters on devices; merges only what is then sliced."""
  if is_plain(params):
    return dict(params)
  shapes = {name: leaf.shape for name, leaf in paligemma.param_shapes(model_config.plain()).items()}
  found = {}
  for name, shape in shapes.items():
    parts = {part: params[part] for part in _parts(name, params)}
    if _as_is(name, params):
      found[name] = params[name]
    elif name in param_table.MATRICES and not linear.num_stacked(name):
      found[name] = _merged(model_config, name, shape, {k: np.asarray(v) for k, v in parts.items()})
    else:
      found[name] = Leaf(model_config, name, shape, parts)
  return found


def _parts(name: str, found: Mapping[str, Any]) -> list[str]:
  """The names of all that makes the published parameter, of those there are."""
  able = [name]
  if name in param_table.MATRICES:
    able += [linear.beside(name, part) for part in linear.ADAPTER]
  able += [part for part in found if linear.published_name(part)[0] == name]
  return [part for part in dict.fromkeys(able) if part in found]


def _as_is(name: str, found: Mapping[str, Any]) -> bool:
  return _parts(name, found) == [name]


def _blocks(model_config, name, shape, parts) -> Iterator[np.ndarray]:
  """Layer by layer where there are layers, and the table in parts."""
  if name in param_table.MATRICES and not linear.num_stacked(name):
    yield _merged(model_config, name, shape, parts)
    return
  step = reader.rows_per_block(shape, 4)
  for row in range(0, shape[0], step):
    part = {k: v[row : row + step] for k, v in parts.items()}
    yield _merged(model_config, name, (min(step, shape[0] - row), *shape[1:]), part)


def _merged(model_config, name, shape, parts) -> np.ndarray:
  """float32[shape] of a parameter, or of some of its first dim, from its parts."""
  w = parts.get(name)
  if w is None:
    codes, scale = (
      jnp.asarray(parts[p]) for p in linear.quantized_names(name, model_config.quantize)
    )
    w = np.asarray(
      linear.dequantize_param(name, model_config.quantize, codes, scale, shape, jnp.float32)
    )
  adapter = [parts.get(linear.beside(name, part)) for part in linear.ADAPTER]
  if adapter[0] is None:
    return np.asarray(w, np.float32)
  return lora.merged(model_config.lora, name, w, *adapter)
