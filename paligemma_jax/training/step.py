"""One training step and one evaluation step, each a single compiled program.

For 159 M parameters in float32 the gradients of all layers are as large as the parameters. Three
things save memory beside them, at equal numbers:

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

Legend: B rows, A micro-batches, L text length, T = L positions the model is fed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from paligemma_jax.core import errors
from paligemma_jax.models import cpu
from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states

Batch = dict[str, jax.Array]


def make_train_step(
  model_config: variants.ModelConfig,
  optimizer: optimizers.Optimizer,
  state: states.TrainState,
  mesh: Mesh,
  *,
  token_loss: loss.TokenLoss,
  grad_accum_steps: int,
  seed: int,
) -> Callable[[states.TrainState, Batch, int], tuple[states.TrainState, dict[str, jax.Array]]]:
  """The jitted (state, batch, num_supervised) -> (state, sums). The state handed in is donated.

  The rows of a batch are sharded over the mesh; `num_supervised` (static, from
  `loss.num_supervised`) is passed by position. With `grad_accum_steps` micro-batches the result is
  that of the whole batch up to rounding.

  A step whose loss, gradient norm or update norm is not finite leaves parameters and optimizer
  state bitwise unchanged; the step still counts.

  `sums`, each float32[] and replicated: loss (as trained on), grad_norm (of the trainable, before
  clipping), update_norm, lr, num_tokens, num_correct, num_rows, nonfinite (1 when skipped).

  Args:
    state: of arrays or abstract; its shapes and shardings are kept.
    seed: of dropout; the key of a step is a function of (seed, step).
  """
  places = states.shardings(state)
  table = state.trainable.get(param_table.INPUT_EMBEDDING)
  budget_bytes = loss.BUDGET_BYTES
  if table is not None:
    budget_bytes = max(budget_bytes, 4 * math.prod(table.sharding.shard_shape(table.shape)))
  row_sums = functools.partial(_row_sums, model_config, mesh, token_loss)

  def step_fn(state, batch, num_supervised):
    num_rows = batch["_mask"].astype(jnp.float32).sum()
    drops = model_config.dropout or model_config.lora.dropout
    key = jax.random.fold_in(jax.random.key(seed), state.step) if drops else None
    rows = batch["text"].shape[0] // grad_accum_steps
    chunk = loss.chunk_len(rows, model_config.llm.vocab_size, mesh.size, budget_bytes)
    trained, constant = to_differentiate(model_config, state, table=chunk >= num_supervised)

    def loss_fn(trained, part, key):
      sums = row_sums(chunk, {**constant, **trained}, part, num_supervised, key)
      mask = part["_mask"]
      counts = {
        "num_tokens": jnp.where(mask, sums.num_tokens, 0.0).sum(),
        "num_correct": jnp.where(mask, sums.num_correct, 0.0).sum(),
      }
      return loss.batch_loss(sums, mask, num_rows), counts

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if grad_accum_steps > 1:
      grad_fn = functools.partial(_accumulate, grad_fn, grad_accum_steps, mesh)
    (value, counts), gradients = grad_fn(trained, batch, key)
    gradients = _by_weight(gradients, places.trainable)
    grad_norm = optax.global_norm(optimizers.whole(gradients))
    new_state, update_norm, finite = _update_if_finite(
      optimizer, gradients, state, (value, grad_norm), mesh
    )
    sums = dict(
      loss=value,
      grad_norm=grad_norm,
      update_norm=jnp.where(finite, update_norm, 0.0),
      lr=optimizer.schedule(state.step),
      num_rows=num_rows,
      nonfinite=1.0 - finite.astype(jnp.float32),
      **counts,
    )
    return new_state, sums

  return jax.jit(
    step_fn,
    static_argnums=2,
    donate_argnums=0,
    in_shardings=(places, sharding.batch_sharding(mesh)),
    out_shardings=(places, sharding.replicated(mesh)),
    compiler_options=cpu.compiler_options(mesh, table),
  )


def make_eval_step(
  model_config: variants.ModelConfig, mesh: Mesh
) -> Callable[[dict[str, jax.Array], Batch, int], loss.RowSums]:
  """The jitted (params, batch, num_supervised) -> RowSums float32[B], replicated; no dropout.

  Rows with `_mask` False have sums too; they mean nothing.
  """

  def step_fn(params, batch, num_supervised):
    token_loss = loss.cross_entropy(label_smoothing=0.0)
    chunk = loss.chunk_len(batch["text"].shape[0], model_config.llm.vocab_size, mesh.size)
    return _row_sums(model_config, mesh, token_loss, chunk, params, batch, num_supervised, None)

  places = (None, sharding.batch_sharding(mesh))
  return jax.jit(
    step_fn, static_argnums=2, in_shardings=places, out_shardings=sharding.replicated(mesh)
  )


def _row_sums(model_config, mesh, token_loss, chunk, params, batch, num_supervised, key):
  """RowSums float32[B] of a batch or micro-batch; `key` is of dropout, None for none."""
  if batch["text"].shape != batch["mask_loss"].shape:
    raise errors.ConfigError(
      f"text {batch['text'].shape} and mask_loss {batch['mask_loss'].shape} differ in shape; the"
      " loss needs the train encoding."
    )
  with sharding.rows_stay(mesh):
    x_BTD = paligemma.text_features(
      model_config,
      params,
      batch.get("image"),
      batch["text"][:, :-1],
      batch["mask_ar"][:, :-1],
      dropout_key=key,
      encoded=batch.get("encoded"),  # In place of images, where the vision tower is frozen.
    )
  place = sharding.logits_sharding(model_config.llm.vocab_size, model_config.llm.width, mesh)

  def logits(x_BcD):
    return jax.lax.with_sharding_constraint(paligemma.logits(model_config, params, x_BcD), place)

  losses = loss.token_losses(
    logits,
    x_BTD,
    batch["text"][:, 1:],
    batch["mask_loss"][:, 1:],
    num_supervised=num_supervised,
    chunk=chunk,
    token_loss=token_loss,
  )
  return loss.row_sums(losses)


def _accumulate(grad_fn, grad_accum_steps, mesh, trained, batch, key):
  """The sums of what `grad_fn` gives over the micro-batches, in float32."""
  rows = batch["text"].shape[0]
  sharding.check_batch(rows, mesh, grad_accum_steps=grad_accum_steps, what="train.batch_size")

  # With A micro-batches rows a, a + A, ... make micro-batch a: every row stays on its device.
  def split(x):
    x = x.reshape(rows // grad_accum_steps, grad_accum_steps, *x.shape[1:]).swapaxes(0, 1)
    spec = jax.sharding.PartitionSpec(None, sharding.row_axes(mesh))
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, spec))

  def body(carry, part_and_index):
    part, index = part_and_index
    part_key = None if key is None else jax.random.fold_in(key, index)
    return jax.tree.map(jnp.add, carry, grad_fn(trained, part, part_key)), None

  parts = jax.tree.map(split, batch)
  shapes = jax.eval_shape(grad_fn, trained, jax.tree.map(lambda x: x[0], parts), key)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)
  total, _ = jax.lax.scan(body, zeros, (parts, jnp.arange(grad_accum_steps)))
  return total


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


def _by_weight(gradients, places):
  """Gradients by the weights' names and sharded as they are: a weight's own, its offset's."""
  found: dict[str, tuple[jax.Array, ...]] = {}
  for name, g in gradients.items():
    weight = name.removesuffix(linear.OFFSET)
    g = jax.lax.with_sharding_constraint(g, places[weight])
    found[weight] = (*found.get(weight, ()), g)
  return found


def _update_if_finite(optimizer, gradients, state, numbers, mesh):
  """The next state, the norm of the update, and whether the step counts.

  It counts where that norm and `numbers`, the loss and the gradients' norm, are finite. Else
  parameters, optimizer state and averages stay as they were, to the bit; `step` still goes up.
  """
  on_cpu = mesh.devices.flat[0].platform == "cpu"
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
