"""Rematerialization: what the backward pass recomputes of a layer instead of keeping it.

none  nothing: most memory.
dots  all but products with parameters and what has the name KEPT: less than half the memory for
      about 3 % more operations. On CPU it is also the fastest, since what is kept must be written
      out.
full  the whole layer: only its input is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from paligemma_jax.core import errors
from paligemma_jax.models import variants

# The `checkpoint_name` of what attention by rows would otherwise recompute.
KEPT = "attention"

# "auto" is "full" from this decoder width on.
_FULL_FROM_WIDTH = 1024


def resolve(model_config: variants.ModelConfig) -> str:
  """The config's policy, "auto" decided."""
  if model_config.remat == "auto":
    return "full" if model_config.llm.width >= _FULL_FROM_WIDTH else "dots"
  return model_config.remat


def wrap(layer: type[nn.Module], name: str) -> type[nn.Module]:
  """The layer class under the policy, to be scanned."""
  if name == "none":
    return layer
  # The scan keeps the compiler from merging the recomputation with the forward pass.
  return nn.remat(layer, prevent_cse=False, policy=policy(name))


def policy(name: str) -> Callable[..., bool] | None:
  """What `jax.checkpoint` takes for "dots" or "full"."""
  dots = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(KEPT),
  )
  return errors.pick({"dots": dots, "full": None}, name, "remat policy")
