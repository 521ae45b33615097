"""Where arrays live: the device mesh, FSDP for parameters, rows of a batch over all devices."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from paligemma_jax.core import errors
from paligemma_jax.core import value_forms
from paligemma_jax.models import gemma
from paligemma_jax.models import siglip

# Leaves whose first dim is the layer: it is scanned over, so it is never cut.
_SCANNED = ("img/Transformer/encoderblock/", "llm/layers/")

# The parts of a batch that the device needs; the rest (`_row`) stays on the host.
_DEVICE_KEYS = ("image", "text", "mask_ar", "mask_loss", "mask_input", "_mask")


def make_mesh(mesh: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The named mesh over `devices` (default: all of them, over all hosts).

  Args:
    mesh: the `mesh` section of the config. `shape` is pairs (axis, size), one size may be -1 (the
      rest of the devices); () puts all devices on "fsdp".

  Raises:
    ConfigError: an unknown axis, or sizes that do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  pairs = tuple((str(name), int(size)) for name, size in mesh.shape) or (("fsdp", -1),)
  names = [name for name, _ in pairs]
  for name in names:
    if name not in value_forms.AXES:
      hint = errors.did_you_mean(name, value_forms.AXES)
      raise errors.ConfigError(f"mesh.shape: unknown axis {name!r}.{hint}")
  sizes = [size for _, size in pairs]
  known = math.prod(size for size in sizes if size != -1)
  if len(set(names)) < len(names) or sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise errors.ConfigError(
        f"mesh.shape: {pairs} must name each axis once, with sizes of at least 1 and at most one"
        " -1."
    )
  if len(devices) % known or (-1 not in sizes and known != len(devices)):
    raise errors.ConfigError(
        f"mesh.shape: {pairs} needs {'a multiple of ' if -1 in sizes else ''}{known} devices;"
        f" there are {len(devices)}."
    )
  sizes = [len(devices) // known if size == -1 else size for size in sizes]
  return Mesh(np.array(devices).reshape(sizes), names)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of the array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Dim 0 (rows) is cut over all axes of the mesh; any further dims are whole."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def param_shardings(
    shapes: Mapping[str, Any], mesh: Mesh, *, min_size: int = 2**14
) -> dict[str, NamedSharding]:
  """For each name the FSDP sharding of its leaf: its largest dim that divides is cut over "fsdp".

  The layer dim of scanned leaves is never cut; leaves below `min_size` elements, and leaves none of
  whose dims divide, are replicated.

  Args:
    shapes: name -> anything with a `.shape`.
  """
  num_shards = mesh.shape.get("fsdp", 1)
  return {
      name: NamedSharding(mesh, _spec(name, leaf.shape, num_shards, min_size))
      for name, leaf in shapes.items()
  }


@contextlib.contextmanager
def rows_stay(mesh: Mesh) -> Iterator[None]:
  """While a model is traced in here, each layer takes and gives rows cut as the batch is.

  This is what makes it FSDP: weights come together one layer at a time inside the scan. Left to
  itself XLA also finds a program that gathers all rows on every device and keeps weights apart.
  """
  if mesh.size == 1:
    yield
    return

  def pin(x):
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))

  def layer(call, args, kwargs, context):
    if not isinstance(context.module, (gemma.Layer, siglip.Layer)):
      return call(*args, **kwargs)
    if context.method_name != "__call__":
      return call(*args, **kwargs)
    x, *others = call(pin(args[0]), *args[1:], **kwargs)
    return (pin(x), *others)

  with nn.intercept_methods(layer):
    yield


def logits_sharding(vocab_size: int, width: int, mesh: Mesh) -> NamedSharding:
  """Of float32[B, c, V]: V is cut where the table is, so that the table stays apart; else rows."""
  if "fsdp" not in _spec("", (vocab_size, width), mesh.shape.get("fsdp", 1), 1)[:1]:
    return batch_sharding(mesh)
  rows = tuple(name for name in mesh.axis_names if name != "fsdp")
  return NamedSharding(mesh, PartitionSpec(rows or None, None, "fsdp"))


def like_params(tree: Any, params: Mapping[str, Any], mesh: Mesh) -> Any:
  """Shardings for a tree (an optimizer state) that holds parameter-like leaves by name.

  A leaf that stands under a parameter's name in a dict lies as that parameter when it has its
  shape, and else (factored moments, scales) by the rule for parameters; the rest is replicated.

  Args:
    tree: arrays or ShapeDtypeStructs.
    params: by name, with shapes and shardings.
  """

  def pick(path, leaf):
    name = getattr(path[-1], "key", None) if path else None
    if name not in params:
      return replicated(mesh)
    if leaf.shape == params[name].shape:
      return params[name].sharding
    return param_shardings({name: leaf}, mesh)[name]

  return jax.tree_util.tree_map_with_path(pick, tree)


def check_batch(batch_size: int, mesh: Mesh, *, accum: int, what: str) -> None:
  """Raises ConfigError unless `batch_size` rows divide over the devices and micro-batches.

  Args:
    batch_size: rows over all hosts.
    accum: micro-batches that one step is made of.
    what: the config key, named in the error.
  """
  unit = mesh.size * accum
  if batch_size < 1 or batch_size % unit:
    near = max(unit, round(batch_size / unit) * unit)
    per = f"{mesh.size} devices" + (f" x {accum} micro-batches (train.accum)" if accum > 1 else "")
    raise errors.ConfigError(
        f"{what}={batch_size} does not divide over {per}; it must be a multiple of {unit},"
        f" for instance {near}."
    )


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This host's rows of a Batch as one global array per key, rows cut over all devices.

  Keeps image, text, mask_ar, mask_loss, mask_input and _mask; row numbers stay on the host.

  Args:
    batch: with B / process_count rows in every process.
  """
  sharding = batch_sharding(mesh)
  return {
      key: jax.make_array_from_process_local_data(sharding, np.asarray(batch[key]))
      for key in _DEVICE_KEYS
      if key in batch
  }


def _spec(name: str, shape: Sequence[int], num_shards: int, min_size: int) -> PartitionSpec:
  if num_shards == 1 or math.prod(shape) < min_size:
    return PartitionSpec()
  first = 1 if name.startswith(_SCANNED) else 0
  dims = [i for i in range(first, len(shape)) if shape[i] % num_shards == 0]
  if not dims:
    return PartitionSpec()
  cut = max(dims, key=lambda i: (shape[i], -i))
  return PartitionSpec(*("fsdp" if i == cut else None for i in range(cut + 1)))
