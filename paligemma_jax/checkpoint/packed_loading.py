"""Packs a model while it is loaded: block by block, so that it is never whole in full precision."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import numpy as np

from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import params as param_table
from paligemma_jax.models import quantized
from paligemma_jax.models import variants


def repack(
  cfg: variants.ModelConfig, name: str, blocks: Iterator[np.ndarray]
) -> dict[str, np.ndarray] | None:
  """The codes and scales that are to stand for parameter `name`; None where it is not packed.

  A block (of some tens of MB) at a time is on the device.
  """
  shapes = paligemma.param_shapes(cfg.plain())
  if name not in quantized.packed(cfg, shapes):
    return None
  if name != param_table.INPUT_EMBEDDING and not linear.num_stacked(name):
    # Blocks of rows would cut through the inputs that share a scale.
    blocks = iter([np.concatenate([block.copy() for block in blocks])])
  parts = [jax.device_get(_packed(name, cfg.packed, block)) for block in blocks]
  return {part: np.concatenate([p[part] for p in parts]) for part in parts[0]}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _packed(name, kind, block):
  return quantized.pack(name, kind, block)
