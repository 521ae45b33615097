"""Several hosts read a file of weights once: each a part, and the rest comes over the devices.

Weights lie in one bucket or file system, whose network is slower than the links between devices. As
every host has all bytes in the end, checksums and all else are as on one host.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from paligemma_jax.checkpoint import reader

_MIN_BYTES = 1 << 20  # Less is read by every host: an exchange takes longer.
_MAX_BYTES = 256 << 20  # Exchanged together; so much of it is on every device.
_STEP_BYTES = 1 << 16  # Parts are multiples of it, so that few sizes are compiled.


def of_hosts(mesh: Mesh) -> reader.Fill:
  """How the hosts of a mesh fill a buffer from a file: together, where there are several.

  All hosts must call it with buffers of the same sizes in the same order.
  """
  if jax.process_count() == 1:
    return reader.fill_alone
  return functools.partial(_fill, sorted(mesh.devices.flat, key=lambda d: (d.process_index, d.id)))


def _fill(
  devices: list[jax.Device], view: memoryview, read: Callable[[int, memoryview], None]
) -> None:
  for start in range(0, len(view), _MAX_BYTES):
    piece = view[start : start + _MAX_BYTES]
    if len(piece) < _MIN_BYTES:
      read(start, piece)
    else:
      _exchange(devices, piece, start, read)


def _exchange(
  devices: list[jax.Device],
  view: memoryview,
  start: int,
  read: Callable[[int, memoryview], None],
) -> None:
  """Reads this host's part of the view, one slice for each of its devices; gets the others."""
  mesh = Mesh(np.array(devices), ("part",))
  size = _STEP_BYTES * math.ceil(len(view) / len(devices) / _STEP_BYTES)
  own = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
  begin, end = (min(i * size, len(view)) for i in (own[0], own[-1] + 1))
  part = np.zeros((len(own), size), np.uint8)
  read(start + begin, part.reshape(-1).data[: end - begin])
  shards = [jax.device_put(part[i : i + 1], devices[at]) for i, at in enumerate(own)]
  sharded = jax.make_array_from_single_device_arrays(
    (len(devices), size), NamedSharding(mesh, PartitionSpec("part")), shards
  )
  whole = _everywhere(NamedSharding(mesh, PartitionSpec()))(sharded)
  view[:] = np.asarray(whole.addressable_data(0)).reshape(-1)[: len(view)].data


@functools.cache
def _everywhere(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(lambda x: x, out_shardings=sharding)
