"""Less memory for the gradients of a step, at equal numbers.

For 159 M parameters in float32 the gradients of all layers are as large as the parameters. Three
things save memory beside them:

Offsets. A weight is kept in float32 and multiplied in bfloat16, so its gradient comes out of the
product in bfloat16; the gradient of the float32 weight is that same number in twice the bits, for
all layers at once. The step differentiates with respect to bfloat16 zeros added to the rounded
weights instead, and the optimizer reads the numbers in float32 leaf by leaf. XLA folds the zeros
away (models/linear.py). The embedding table is read twice: in float32 where text begins, which
gives one part of its gradient, and in bfloat16 at the head, which gives the other.

One budget of logits. Where the embedding table is trainable, its gradient is the largest array of
the step. Logits and the gradients of the layers never exist together, so logits may take as much
memory as that gradient; chunks of positions would only sum it chunk by chunk, beside each chunk's
own.

The update is recomputed: once for its norm and once to be applied. Whether a step counts is
known only with the last norm, and to keep the updates until then would cost as much memory as the
gradients do. The compiler must not merge the two: a barrier keeps them apart on an accelerator. On
a CPU, XLA would still write out what both share, and a branch keeps them apart (1.5 GB of
temporaries in place of 7.0 for 159 M parameters; 0.86 of the processor time of a small step).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from paligemma_jax.models import cpu
from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import state as states


def to_differentiate(
  model_config: variants.ModelConfig, state: states.TrainState, *, table: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(what gradients are taken with respect to, all other parameters), both by name.

  Where matmuls run in bfloat16, an offset stands in for each matrix of the layers.

  Args:
    table: an offset for the embedding table too, beside the table itself; not where gradients of
      chunks of positions would be summed in bfloat16.
  """
  dtype = paligemma.compute_dtype(model_config)
  if dtype == jnp.float32:
    return state.trainable, state.frozen
  trained, constant = dict(state.trainable), dict(state.frozen)
  for name in linear.with_offsets(state.trainable):
    constant[name] = trained.pop(name)
    trained[f"{name}{linear.OFFSET}"] = jnp.zeros(constant[name].shape, dtype)
  name = param_table.INPUT_EMBEDDING
  if table and name in trained:
    trained[f"{name}{linear.OFFSET}"] = jnp.zeros(trained[name].shape, dtype)
  return trained, constant


def by_weight(
  gradients: dict[str, jax.Array], places: dict[str, Any]
) -> dict[str, tuple[jax.Array, ...]]:
  """Gradients by the weights' names and sharded as they are: a weight's own, its offset's."""
  found: dict[str, tuple[jax.Array, ...]] = {}
  for name, g in gradients.items():
    weight = name.removesuffix(linear.OFFSET)
    g = jax.lax.with_sharding_constraint(g, places[weight])
    found[weight] = (*found.get(weight, ()), g)
  return found


@jax.named_scope("optimizer")
def update_if_finite(
  optimizer: optimizers.Optimizer,
  gradients: dict[str, tuple[jax.Array, ...]],
  state: states.TrainState,
  numbers: tuple[jax.Array, jax.Array],
  mesh: Mesh,
) -> tuple[states.TrainState, jax.Array, jax.Array]:
  """The next state, the norm of the update, and whether the step counts.

  It counts where that norm and `numbers`, the loss and the gradients' norm, are finite. Else
  parameters, optimizer state and averages stay as they were, to the bit; `step` still goes up.
  """
  on_cpu = cpu.is_cpu(mesh)
  shown = gradients if on_cpu else jax.lax.optimization_barrier(gradients)
  norm = optimizer.norm(shown, state.opt_state, state.trainable, state.step)
  value, grad_norm = numbers
  finite = jnp.isfinite(value) & jnp.isfinite(grad_norm) & jnp.isfinite(norm)

  def applied(gradients, state, counts):
    trainable, opt_state = optimizer.apply(
      gradients, state.opt_state, state.trainable, state.step, counts
    )
    ema = optimizers.averaged(optimizer.ema, state.ema, trainable, state.step)
    ema = {name: jnp.where(counts, new, state.ema[name]) for name, new in ema.items()}
    return trainable, opt_state, ema

  if on_cpu:
    old = (state.trainable, state.opt_state, state.ema)
    trainable, opt_state, ema = jax.lax.cond(
      finite, lambda g, s: applied(g, s, True), lambda g, s: old, gradients, state
    )
  else:
    trainable, opt_state, ema = applied(gradients, state, finite)
  new = states.TrainState(state.step + 1, trainable, state.frozen, opt_state, ema)
  return new, norm, finite


def logits_budget(state: states.TrainState) -> int:
  """Bytes of logits per device: up to those of the embedding table's gradient, if it trains."""
  table = state.trainable.get(param_table.INPUT_EMBEDDING)
  if table is None:
    return loss.BUDGET_BYTES
  return max(loss.BUDGET_BYTES, 4 * math.prod(table.sharding.shard_shape(table.shape)))
