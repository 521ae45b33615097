"""Named device meshes.

The examples of a batch are sharded over "data" and "fsdp", parameters over "fsdp"; over "tensor"
the matmuls of a layer are: by heads, by hidden units, and at the end by the vocabulary.
"""

from __future__ import annotations

import ml_collections

from paligemma_jax.core import errors

MESHES: dict[str, tuple[tuple[str, int], ...]] = {
  "one_device": (("fsdp", 1),),
  "fsdp": (("fsdp", -1),),  # Parameters in as many parts as there are devices: least memory.
  "data": (("data", -1),),  # Parameters whole on each device: least talk, for models that fit.
  # FSDP inside each slice or host, whose links are fast; only gradients cross between them.
  "2x_fsdp": (("data", 2), ("fsdp", -1)),
  "4x_fsdp": (("data", 4), ("fsdp", -1)),
  "8x_fsdp": (("data", 8), ("fsdp", -1)),
  # For batches with fewer rows than there are devices. The talk is per layer and not per
  # parameter, so it wants the fastest links: the last axis is the one of neighbours.
  "tensor_2": (("fsdp", -1), ("tensor", 2)),
  "tensor_4": (("fsdp", -1), ("tensor", 4)),
  "tensor_8": (("fsdp", -1), ("tensor", 8)),
}


def apply(c: ml_collections.ConfigDict, mesh: str) -> None:
  """Sets `c.mesh.shape` to the named mesh; ConfigError when there is none of that name."""
  c.mesh.shape = errors.pick(MESHES, mesh, "mesh")
