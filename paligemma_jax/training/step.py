"""One training step and one evaluation step, each a single compiled program.

Legend: B rows, A micro-batches, L text length, T = L positions the model is fed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from paligemma_jax.core import errors
from paligemma_jax.models import cpu
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from paligemma_jax.training import gradient_memory
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
  budget_bytes = gradient_memory.logits_budget(state)
  row_sums = functools.partial(_row_sums, model_config, mesh, token_loss)

  def step_fn(state, batch, num_supervised):
    num_rows = batch["_mask"].astype(jnp.float32).sum()
    drops = model_config.dropout or model_config.lora.dropout
    key = jax.random.fold_in(jax.random.key(seed), state.step) if drops else None
    rows = batch["text"].shape[0] // grad_accum_steps
    chunk = loss.chunk_len(rows, model_config.llm.vocab_size, mesh.size, budget_bytes)
    trained, constant = gradient_memory.to_differentiate(
      model_config, state, table=chunk >= num_supervised
    )

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
    gradients = gradient_memory.by_weight(gradients, places.trainable)
    with jax.named_scope("grad_norm"):
      grad_norm = optax.global_norm(optimizers.whole(gradients))
    new_state, update_norm, finite = gradient_memory.update_if_finite(
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
    compiler_options=cpu.compiler_options(mesh, state.trainable.get(param_table.INPUT_EMBEDDING)),
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
