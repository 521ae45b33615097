"""Where arrays live: the device mesh, FSDP and tensor parallelism for parameters, rows of a batch.

Legend: B rows, c positions, V vocabulary.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from paligemma_jax.config import validation
from paligemma_jax.core import errors
from paligemma_jax.models import gemma
from paligemma_jax.models import kernels
from paligemma_jax.models import param_table
from paligemma_jax.models import siglip

# The parts of a batch that the device needs; the rest (`_row`) stays on the host.
_DEVICE_KEYS = ("image", "encoded", "text", "mask_ar", "mask_loss", "mask_input", "_mask")


def make_mesh(mesh: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The named mesh over `devices` (default: all of them, over all hosts).

  Args:
    mesh: the section of the config. `shape` is pairs (axis, size), one size may be -1 (the rest of
      the devices); () puts all devices on "fsdp".

  Raises:
    ConfigError: an unknown axis, sizes that do not multiply to the number of devices, or hosts with
      different numbers of them, which could not have equal shares of a batch.
  """
  validation.check("axes", "mesh.shape", tuple(mesh.shape))
  devices = list(jax.devices() if devices is None else devices)
  on_host = collections.Counter(device.process_index for device in devices)
  if len(set(on_host.values())) > 1:
    counts = ", ".join(f"{num} on host {host}" for host, num in sorted(on_host.items()))
    raise errors.ConfigError(f"All hosts must have as many devices; there are {counts}.")
  pairs = tuple(mesh.shape) or (("fsdp", -1),)
  sizes = [size for _, size in pairs]
  known = math.prod(size for size in sizes if size != -1)
  if len(devices) % known or (-1 not in sizes and known != len(devices)):
    raise errors.ConfigError(
      f"mesh.shape: {pairs} needs {'a multiple of ' if -1 in sizes else ''}{known} devices;"
      f" there are {len(devices)}."
    )
  sizes = [len(devices) // known if size == -1 else size for size in sizes]
  return Mesh(np.array(devices).reshape(sizes), [name for name, _ in pairs])


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of the array."""
  return NamedSharding(mesh, PartitionSpec())


def row_axes(mesh: Mesh) -> tuple[str, ...]:
  """The axes that rows of a batch go over: all but "tensor"."""
  return tuple(name for name in mesh.axis_names if name != "tensor")


def num_row_shards(mesh: Mesh) -> int:
  """How many shards the rows of a batch have."""
  return mesh.size // mesh.shape.get("tensor", 1)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Dim 0 (rows) is sharded over all axes of the mesh but "tensor"; any further dims are whole."""
  return NamedSharding(mesh, PartitionSpec(row_axes(mesh)))


def param_shardings(
  shapes: Mapping[str, Any], mesh: Mesh, *, min_size: int = 2**14
) -> dict[str, NamedSharding]:
  """For each name the sharding of its leaf, anything with a `.shape`.

  Heads, hidden units and the vocabulary are sharded over "tensor" where they divide; the largest
  dim that is left and divides is sharded over "fsdp" (the vocabulary over both). The layer dim,
  which is scanned over, is never sharded; leaves below `min_size` elements, and leaves none of
  whose dims divide, are replicated.
  """
  return {
    name: NamedSharding(mesh, _spec(name, leaf.shape, mesh, min_size))
    for name, leaf in shapes.items()
  }


@contextlib.contextmanager
def rows_stay(mesh: Mesh) -> Iterator[None]:
  """While a model is traced in here, the rows of each layer's input and output stay sharded.

  This makes it FSDP: weights are gathered one layer at a time inside the scan. Without it XLA may
  gather all rows on every device instead and keep weights sharded.
  """
  if mesh.size == 1:
    with kernels.on(mesh):
      yield
    return

  def pin(x):
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))

  def layer(call, args, kwargs, context):
    is_layer = isinstance(context.module, (gemma.Layer, siglip.Layer))
    if not is_layer or context.method_name != "__call__":
      return call(*args, **kwargs)
    x, *others = call(pin(args[0]), *args[1:], **kwargs)
    return (pin(x), *others)

  with nn.intercept_methods(layer), kernels.on(mesh):
    yield


def logits_sharding(vocab_size: int, width: int, mesh: Mesh) -> NamedSharding:
  """Of float32[B, c, V]: V is sharded as in the embedding table, B over the other row axes."""
  spec = tuple(_spec(param_table.INPUT_EMBEDDING, (vocab_size, width), mesh, 1))
  axes = spec[0] if spec else None
  axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
  rows = tuple(name for name in row_axes(mesh) if name not in axes)
  return NamedSharding(mesh, PartitionSpec(rows or None, None, axes or None))


def like_params(tree: Any, params: Mapping[str, Any], mesh: Mesh) -> Any:
  """Shardings for a tree (an optimizer state) that holds parameter-like leaves by name.

  A leaf under a parameter's name in a dict is sharded as that parameter when it has its shape, and
  else (factored moments, scales) by the rule for parameters; other leaves are replicated.
  """

  def pick(path, leaf):
    name: Any = getattr(path[-1], "key", None) if path else None
    if name not in params:
      return replicated(mesh)
    if leaf.shape == params[name].shape:
      return params[name].sharding
    return param_shardings({name: leaf}, mesh)[name]

  return jax.tree_util.tree_map_with_path(pick, tree)


def check_batch(batch_size: int, mesh: Mesh, *, grad_accum_steps: int, what: str) -> None:
  """A ConfigError that names the key `what` unless all rows divide over mesh and micro-batches."""
  shards = num_row_shards(mesh)
  unit = shards * grad_accum_steps
  if batch_size < 1 or batch_size % unit:
    near = max(unit, round(batch_size / unit) * unit)
    per = f"{shards} devices" if shards == mesh.size else f"the mesh's {shards} shards of rows"
    if grad_accum_steps > 1:
      per += f" x {grad_accum_steps} micro-batches (train.grad_accum_steps)"
    raise errors.ConfigError(
      f"{what}={batch_size} does not divide over {per}; it must be a multiple of {unit},"
      f" for instance {near}."
    )


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This host's rows, B / process_count, as one global array per key, sharded over all devices."""
  sharding = batch_sharding(mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, np.asarray(batch[key]))
    for key in _DEVICE_KEYS
    if key in batch
  }


def _spec(name: str, shape: Sequence[int], mesh: Mesh, min_size: int) -> PartitionSpec:
  if math.prod(shape) < min_size:
    return PartitionSpec()
  axes: list[tuple[str, ...]] = [()] * len(shape)
  fsdp, tensor = mesh.shape.get("fsdp", 1), mesh.shape.get("tensor", 1)
  by_tensor = param_table.TABLE[name].tensor if name in param_table.TABLE else -1
  # A leaf of that name with other dims (of an adapter, of quantized weights) is left to "fsdp".
  if tensor > 1 and 0 <= by_tensor < len(shape) and shape[by_tensor] % tensor == 0:
    axes[by_tensor] = ("tensor",)
  first = 1 if name.startswith(param_table.SCANNED) else 0
  dims = [i for i in range(first, len(shape)) if not axes[i] and shape[i] % fsdp == 0]
  if name == param_table.INPUT_EMBEDDING and shape[0] % (fsdp * tensor) == 0:
    axes[0] = ("fsdp",) * (fsdp > 1) + axes[0]
  elif fsdp > 1 and dims:
    axes[max(dims, key=lambda i: (shape[i], -i))] = ("fsdp",)
  last = max((i for i, names in enumerate(axes) if names), default=-1)
  entries = [names[0] if len(names) == 1 else names or None for names in axes[: last + 1]]
  return PartitionSpec(*entries)
