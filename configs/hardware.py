"""Named device meshes. Rows of a batch go over both axes, parameters are cut over "fsdp" alone."""

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
}


def apply(c: ml_collections.ConfigDict, mesh: str) -> None:
  """Sets `c.mesh.shape` to the named mesh; ConfigError when there is none of that name."""
  c.mesh.shape = errors.pick(MESHES, mesh, "mesh")
