"""Strict loading: from an opened file to arrays on the mesh, leaf by leaf, in the dtype asked for.

Beside the parameters themselves only one block of a leaf is in host memory at a time: on CPU the
arrays take over the buffers that were read into. And a run's parameters as published: adapters in
their matrices, nothing quantized, leaf by leaf too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import linear
from paligemma_jax.models import lora
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from paligemma_jax.training import state as states

_SHOWN = 3  # Names in an error.
_ALIGNMENT = 64  # Bytes; a host buffer so aligned becomes a CPU array without a copy.


def load_params(
  weights: reader.Weights,
  shapes: Mapping[str, Any],
  *,
  dtype: Any,
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  fill: reader.Fill = reader.fill_alone,
  log: Callable[[str], None] | None = None,
  repack: Callable[[str, Iterator[np.ndarray]], dict[str, np.ndarray] | None] | None = None,
) -> dict[str, jax.Array]:
  """The parameters {name: dtype[shape]} on their devices.

  Args:
    shapes: {name: shape or anything with .shape} that the model needs. Only the position embedding
      may differ in the file: it is then resampled, and that is logged.
    dtype: of the result; a callable name -> dtype; or None for the stored one.
    shardings: {name: Sharding}; None puts everything on the first device.
    fill: how bytes of a file are read; `shared_reading.of_hosts` for several hosts.
    log: is called with one sentence per thing that was not simply copied.
    repack: (name, blocks) -> the arrays by name that are to stand for a parameter, which itself is
      then never put on a device; None where it is to be loaded as it is.

  Raises:
    CheckpointError: a name is missing, surplus or of another shape (all are listed, before any data
      is read), the data is damaged, or it holds NaN or infinity.
  """
  shapes = {name: tuple(getattr(s, "shape", s)) for name, s in shapes.items()}
  found = {name: entry.shape for name, entry in weights.entries.items()}
  resized = must_resample(found, shapes)
  fits = {param_table.POS_EMBEDDING: shapes[param_table.POS_EMBEDDING]} if resized else {}
  param_table.check({**found, **fits}, shapes, str(weights.path))
  default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def target_of(name: str) -> jax.ShapeDtypeStruct:
    wanted = dtype(name) if callable(dtype) and not isinstance(dtype, type) else dtype
    wanted = np.dtype(weights.entries[name].dtype if wanted is None else wanted)
    place = default if shardings is None else shardings[name]
    return jax.ShapeDtypeStruct(shapes[name], wanted, sharding=place)

  params = {}
  bad: list[str] = []  # Parameters with numbers that are not finite.
  if weights.restore and repack is None:
    same = [name for name in shapes if not (resized and name == param_table.POS_EMBEDDING)]
    params = weights.restore({name: target_of(name) for name in same})
    bad += [name for name, is_good in states.all_finite(params).items() if not is_good]
  for name, shape in shapes.items():
    if name in params:
      continue
    blocks = weights.blocks(name, fill=fill)
    if resized and name == param_table.POS_EMBEDDING:
      blocks = iter([resample(weights.read(name, fill=fill), shape)])
      if log:
        old, new = found[name][1], shape[1]
        log(f"{weights.path}: resampled {name} from {old} to {new} image tokens (bilinear)")
    parts = repack(name, _checked(blocks, name, bad)) if repack else None
    if parts is not None:
      for part, array in parts.items():
        place = default if shardings is None else shardings[part]
        params[part] = _put(iter([array]), array.shape, array.dtype, place)[0]
      continue
    target = target_of(name)
    params[name], good = _put(blocks, shape, target.dtype, target.sharding)
    if not good:
      bad.append(name)
  if bad:
    shown = ", ".join(bad[:_SHOWN]) + (", …" if len(bad) > _SHOWN else "")
    raise errors.CheckpointError(
      f"{weights.path}: {len(bad)} of {len(shapes)} parameters hold numbers that are not finite"
      f" (NaN or infinity): {shown}. The file is damaged, or of a run that went wrong: take an"
      " earlier one."
    )
  return params


def _checked(blocks: Iterator[np.ndarray], name: str, bad: list[str]) -> Iterator[np.ndarray]:
  """The blocks; `name` is added to `bad` when one holds NaN or infinity."""
  for block in blocks:
    if name not in bad and not is_finite(block):
      bad.append(name)
    yield block


def _put(
  blocks: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, sharding: Any
) -> tuple[jax.Array, bool]:
  """One array on its devices, and whether all of it are finite numbers."""
  shards, good = _host_shards(blocks, shape, dtype, sharding)
  arrays = [jax.device_put(buffer, device) for buffer, devices in shards for device in devices]
  # Waits, because host buffers of accelerators are freed only when their copy is done.
  array = jax.make_array_from_single_device_arrays(shape, sharding, arrays)
  return jax.block_until_ready(array), good


def _host_shards(
  blocks: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, sharding: Any
) -> tuple[list[tuple[np.ndarray, list[jax.Device]]], bool]:
  """One filled host buffer per distinct shard, with its devices; whether all numbers are finite."""
  shards: dict[tuple, tuple[np.ndarray, list]] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    bounds = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
    if bounds not in shards:
      shards[bounds] = (_aligned(tuple(stop - start for start, stop in bounds), dtype), [])
    shards[bounds][1].append(device)
  row, good = 0, True
  whole = list(shards) == [tuple((0, size) for size in shape)]
  for block in blocks:
    if whole:  # Looked at while it is copied.
      ((buffer, _),) = shards.values()
      good &= copy_finite(buffer[row : row + len(block)], block)
      row += len(block)
      continue
    good &= is_finite(block)
    for ((first, last), *rest), (buffer, _) in shards.items():
      start, stop = max(first, row), min(last, row + len(block))
      if start < stop:
        part = (slice(start - row, stop - row), *(slice(*bounds) for bounds in rest))
        buffer[start - first : stop - first] = block[part]
    row += len(block)
  return list(shards.values()), good


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
  raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
  start = -raw.ctypes.data % _ALIGNMENT
  return raw[start : start + num_bytes].view(dtype).reshape(shape)


_PIECE = 1 << 18  # Elements checked together: they are still in the processor's cache.
# Of 16-bit floats: the least bits, the sign left out, that are infinity; more are NaN.
_INFINITY = {"bfloat16": 0x7F80, "float16": 0x7C00}


def copy_finite(target: np.ndarray, source: np.ndarray) -> bool:
  """target[...] = source; whether the source, a float array, holds only numbers."""
  flat = target.shape == source.shape
  if not (flat and target.flags.c_contiguous and source.flags.c_contiguous):
    target[...] = source
    return is_finite(source)
  into, out_of = target.reshape(-1), source.reshape(-1)
  good = True
  for start in range(0, out_of.size, _PIECE):
    piece = out_of[start : start + _PIECE]
    good = good and _piece(piece)
    into[start : start + _PIECE] = piece
  return good


def is_finite(array: np.ndarray) -> bool:
  """Whether a float array holds only numbers."""
  flat = np.ascontiguousarray(array).reshape(-1)
  return all(_piece(flat[i : i + _PIECE]) for i in range(0, flat.size, _PIECE))


def _piece(flat: np.ndarray) -> bool:
  """One of a few operations that pass over the memory once and make no array."""
  infinity = _INFINITY.get(flat.dtype.name)
  if infinity is not None:
    bits = flat.view(np.uint16)  # The largest one is negative, if one of them is.
    return bool(np.max(bits) < 0x8000 + infinity and np.max(bits.view(np.int16)) < infinity)
  if flat.dtype.kind != "f":  # Codes of quantized weights.
    return True
  return bool(np.isfinite(flat.max()) and np.isfinite(flat.min()))  # NaN is the largest, too.


def must_resample(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> bool:
  """True when only the number of image tokens of the position embedding differs.

  Raises:
    CheckpointError: one of the two grids is no square.
  """
  old, new = found.get(param_table.POS_EMBEDDING), expected.get(param_table.POS_EMBEDDING)
  if old is None or new is None or old == new or (old[0], old[2:]) != (new[0], new[2:]):
    return False
  for num_tokens in (old[1], new[1]):
    if math.isqrt(num_tokens) ** 2 != num_tokens:
      raise errors.CheckpointError(
        f"{param_table.POS_EMBEDDING}: cannot be resampled from {old[1]} to {new[1]} tokens:"
        f" {num_tokens} is no square."
      )
  return True


def resample(pos_embedding: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  """float32[1, n, d] -> float32[*shape]: linear in the square grid, its corners kept in place."""
  from scipy import ndimage  # Takes 0.2 s to import and is rarely needed.

  old, new = math.isqrt(pos_embedding.shape[1]), math.isqrt(shape[1])
  grid = pos_embedding.astype(np.float32).reshape(old, old, -1)
  zoomed = ndimage.zoom(grid, (new / old, new / old, 1), order=1)
  return zoomed.reshape(shape)


def repack(
  model_config: variants.ModelConfig, name: str, blocks: Iterator[np.ndarray]
) -> dict[str, np.ndarray] | None:
  """The codes and scales that are to stand for parameter `name`; None where it is not packed.

  A block (of some tens of MB) at a time is on the device.
  """
  shapes = paligemma.param_shapes(model_config.plain())
  if name not in linear.quantized(model_config, shapes):
    return None
  if name != param_table.INPUT_EMBEDDING and not linear.num_stacked(name):
    # Blocks of rows would cut through the inputs that share a scale.
    blocks = iter([np.concatenate([block.copy() for block in blocks])])
  parts = [jax.device_get(_packed(name, model_config.quantize, block)) for block in blocks]
  return {part: np.concatenate([p[part] for p in parts]) for part in parts[0]}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _packed(name, kind, block):
  return linear.quantize_param(name, kind, block)


def is_published(names: Iterable[str]) -> bool:
  """True where all names are published ones."""
  return not any(lora.is_adapter(name) or paligemma.is_quantized(name) for name in names)


def as_published(model_config: variants.ModelConfig, tuned: reader.Weights) -> reader.Weights:
  """The same weights under the published names; what is merged or unpacked is float32.

  Args:
    model_config: of the run.
    tuned: under the names of `paligemma.param_shapes(model_config)`.
  """
  if is_published(tuned.entries):
    return tuned
  shapes = _published_shapes(model_config)
  parts = {name: _parts(name, tuned.entries) for name in shapes}
  merged = {name for name, own in parts.items() if own != [name]}

  def blocks(name: str, fill: reader.Fill = reader.fill_alone) -> Iterator[np.ndarray]:
    if name not in merged:
      yield from tuned.blocks(name, fill=fill)
      return
    own = {part: tuned.read(part) for part in parts[name]}
    leaf = _leaf(model_config, name, shapes[name], own)
    step = reader.rows_per_block(shapes[name], 4)
    for row in range(0, shapes[name][0], step):
      yield leaf[row : row + step]

  entries = {
    name: reader.Entry(shape, np.dtype(np.float32) if name in merged else tuned.entries[name].dtype)
    for name, shape in shapes.items()
  }
  return dataclasses.replace(tuned, entries=entries, blocks=blocks, restore=None)


def published(model_config: variants.ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
  """{published name: array, or Leaf} of parameters on devices; merges only what is then sliced."""
  if is_published(params):
    return dict(params)
  found = {}
  for name, shape in _published_shapes(model_config).items():
    own = {part: params[part] for part in _parts(name, params)}
    found[name] = params[name] if own.keys() == {name} else _leaf(model_config, name, shape, own)
  return found


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


def _published_shapes(model_config: variants.ModelConfig) -> dict[str, tuple[int, ...]]:
  shapes = paligemma.param_shapes(model_config.plain())
  return {name: tuple(leaf.shape) for name, leaf in shapes.items()}


def _parts(name: str, found: Collection[str]) -> list[str]:
  """The names of all that makes the published parameter, of those there are."""
  able = [name]
  if name in param_table.MATRICES:
    able += [linear.beside(name, part) for part in linear.ADAPTER]
  able += [part for part in found if linear.published_name(part)[0] == name]
  return [part for part in dict.fromkeys(able) if part in found]


def _leaf(
  model_config: variants.ModelConfig, name: str, shape: tuple[int, ...], parts: Mapping[str, Any]
) -> np.ndarray | Leaf:
  """What can be sliced layer by layer where there are layers, and the table in parts."""
  if name in param_table.MATRICES and not linear.num_stacked(name):
    return _merged(model_config, name, shape, {k: np.asarray(v) for k, v in parts.items()})
  return Leaf(model_config, name, shape, parts)


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
