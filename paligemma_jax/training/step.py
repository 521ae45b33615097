"""One training step and one evaluation step, each a single compiled program.

Legend: B rows, A micro-batches, L text length, T = L positions the model is fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from paligemma_jax.core import errors
from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import params as param_table
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states

Batch = dict[str, jax.Array]
Params = dict[str, Any]

# Left to itself XLA:CPU runs the token table's gradient as soon as it can and holds it while the
# layers run backward, so that threads find more to do at once. Where that gradient is large, they
# have their work within each product anyway.
_FOR_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
_LARGE_TABLE = 2**24  # Numbers.


def make_train_step(
  cfg: Any,
  optimizer: optimizers.Optimizer,
  state: states.TrainState,
  mesh: Mesh,
  *,
  label_smoothing: float,
  accum: int,
  seed: int,
) -> Callable[[states.TrainState, Batch, int], tuple[states.TrainState, dict[str, jax.Array]]]:
  """The jitted (state, batch, num_supervised) -> (state, sums). The state handed in is donated.

  The rows of a batch are cut over the mesh; `num_supervised` (static, from
  `loss.num_supervised`) is passed by position. With `accum` micro-batches the result is that of the
  whole batch up to rounding.

  A step whose loss, gradient norm or update norm is not finite leaves parameters and optimizer
  state bitwise unchanged; the step still counts.

  `sums`, each float32[] and replicated: loss (as trained on), grad_norm (of the trainable, before
  clipping), update_norm, lr, num_tokens, num_correct, num_rows, nonfinite (1 when skipped).

  Args:
    cfg: models.variants.ModelConfig.
    state: of arrays or abstract; its shapes and shardings are kept.
    seed: of dropout; the key of a step is a function of (seed, step).
  """

  budget_bytes = _logits_budget(state)
  places = states.shardings(state)
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  table = state.trainable.get(param_table.INPUT_EMBEDDING)
  for_memory = on_cpu and table is not None and table.size >= _LARGE_TABLE

  def step_fn(state, batch, num_supervised):
    num_rows = batch["_mask"].astype(jnp.float32).sum()
    drops = cfg.dropout or cfg.lora.dropout
    key = jax.random.fold_in(jax.random.key(seed), state.step) if drops else None

    rows = batch["text"].shape[0] // accum
    chunk = loss.chunk_len(rows, cfg.llm.vocab_size, mesh.size, budget_bytes)
    moving, fixed = to_differentiate(cfg, state, table=chunk >= num_supervised)

    def loss_fn(moving, part, key):
      params = {**fixed, **moving}
      sums = _row_sums(cfg, params, part, num_supervised, label_smoothing, key, mesh, budget_bytes)
      totals = {
        name: jnp.where(part["_mask"], getattr(sums, name), 0.0).sum()
        for name in ("num_tokens", "num_correct")
      }
      return loss.batch_loss(sums, part["_mask"], num_rows), totals

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if accum == 1:
      (value, totals), gradients = grad_fn(moving, batch, key)
    else:
      (value, totals), gradients = _accumulate(grad_fn, moving, batch, key, accum, mesh)
    gradients = _by_weight(gradients, places.trainable)
    grad_norm = optax.global_norm(optimizers.whole(gradients))
    # The update is worked out twice, once for its norm and once to be applied: whether a step
    # counts is known only with the last norm, and to keep the updates until then would cost as
    # much memory as the gradients do. The compiler must not do just that: a barrier holds the
    # TPU's, and on CPU, where what both times share was written out, a branch (1.5 GB of
    # temporaries in place of 7.0 for 159 M parameters).
    shown = gradients if on_cpu else jax.lax.optimization_barrier(gradients)
    update_norm = optimizer.norm(shown, state.opt_state, state.trainable, state.step)
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)

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
        finite, lambda *args: applied(*args, True), lambda *args: old, gradients, state
      )
    else:
      trainable, opt_state, ema = applied(gradients, state, finite)
    sums = dict(
      loss=value,
      grad_norm=grad_norm,
      update_norm=jnp.where(finite, update_norm, 0.0),
      lr=optimizer.schedule(state.step),
      num_rows=num_rows,
      nonfinite=1.0 - finite.astype(jnp.float32),
      **totals,
    )
    new_state = states.TrainState(
      step=state.step + 1,
      trainable=trainable,
      frozen=state.frozen,
      opt_state=opt_state,
      ema=ema,
    )
    return new_state, sums

  return jax.jit(
    step_fn,
    static_argnums=2,
    donate_argnums=0,
    in_shardings=(places, sharding.batch_sharding(mesh)),
    out_shardings=(places, sharding.replicated(mesh)),
    compiler_options=_FOR_MEMORY if for_memory else None,
  )


def to_differentiate(cfg: Any, state: states.TrainState, *, table: bool) -> tuple[Params, Params]:
  """(what gradients are taken with respect to, all other parameters), both by name.

  Where products run in bfloat16, layers' weights are moved by offsets and not themselves: the
  numbers are the same, and for all layers at once they take half the memory (models/linear.py).

  Args:
    table: the token table too; not where chunks of positions would add up in bfloat16.
  """
  dtype = paligemma.compute_dtype(cfg)
  if dtype == jnp.float32:
    return state.trainable, state.frozen
  moving, fixed = dict(state.trainable), dict(state.frozen)
  for name in linear.with_offsets(state.trainable):
    fixed[name] = moving.pop(name)
    moving[f"{name}{linear.OFFSET}"] = jnp.zeros(fixed[name].shape, dtype)
  if table and param_table.INPUT_EMBEDDING in moving:
    moving[f"{param_table.INPUT_EMBEDDING}{linear.OFFSET}"] = jnp.zeros(
      moving[param_table.INPUT_EMBEDDING].shape, dtype
    )
  return moving, fixed


def make_eval_step(
  cfg: Any, mesh: Mesh
) -> Callable[[dict[str, jax.Array], Batch, int], loss.RowSums]:
  """The jitted (params, batch, num_supervised) -> RowSums float32[B], replicated; no dropout.

  Rows with `_mask` False have sums too; they mean nothing.
  """

  def step_fn(params, batch, num_supervised):
    return _row_sums(cfg, params, batch, num_supervised, 0.0, None, mesh, loss.BUDGET_BYTES)

  return jax.jit(
    step_fn,
    static_argnums=2,
    in_shardings=(None, sharding.batch_sharding(mesh)),
    out_shardings=sharding.replicated(mesh),
  )


def _by_weight(gradients, places):
  """Gradients by the weights' names and placed as they are: a weight's own, that of its offset."""
  found: dict[str, tuple[jax.Array, ...]] = {}
  for name, g in gradients.items():
    weight = name.removesuffix(linear.OFFSET)
    g = jax.lax.with_sharding_constraint(g, places[weight])
    found[weight] = (*found.get(weight, ()), g)
  return found


def _logits_budget(state):
  """Bytes of logits on a device: where the token table trains, up to those of its gradient.

  Chunks of positions would add up that gradient chunk by chunk, beside one chunk's own, so they
  save nothing below that size; and logits and the layers' gradients are not there together.
  """
  table = state.trainable.get(param_table.INPUT_EMBEDDING)
  if table is None:
    return loss.BUDGET_BYTES
  return max(loss.BUDGET_BYTES, 4 * math.prod(table.sharding.shard_shape(table.shape)))


def _row_sums(cfg, params, batch, num_supervised, label_smoothing, key, mesh, budget_bytes):
  if batch["text"].shape != batch["mask_loss"].shape:
    raise errors.ConfigError(
      f"text {batch['text'].shape} and mask_loss {batch['mask_loss'].shape} differ in shape; the"
      " loss needs the train encoding."
    )
  with sharding.rows_stay(mesh):
    # A batch has the images, or what a frozen vision tower made of them.
    encoded, img_tokens = batch.get("encoded"), None
    if encoded is not None:
      img_tokens = paligemma.project_images(cfg, params, encoded, dropout_key=key)
    x_BTD = paligemma.text_features(
      cfg,
      params,
      batch.get("image"),
      batch["text"][:, :-1],
      batch["mask_ar"][:, :-1],
      dropout_key=key,
      img_tokens=img_tokens,
    )
  place = sharding.logits_sharding(cfg.llm.vocab_size, cfg.llm.width, mesh)

  def logits(x_BcD):
    return jax.lax.with_sharding_constraint(paligemma.logits(cfg, params, x_BcD), place)

  losses = loss.token_losses(
    logits,
    x_BTD,
    batch["text"][:, 1:],
    batch["mask_loss"][:, 1:],
    num_supervised=num_supervised,
    vocab_size=cfg.llm.vocab_size,
    label_smoothing=label_smoothing,
    num_devices=mesh.size,
    budget_bytes=budget_bytes,
  )
  return loss.row_sums(losses)


def _accumulate(grad_fn, trainable, batch, key, accum, mesh):
  """Sums of value, totals and gradients over `accum` micro-batches, in float32."""
  rows = batch["text"].shape[0]
  sharding.check_batch(rows, mesh, accum=accum, what="train.batch_size")

  # Rows a, a + accum, ... make micro-batch a: so every row stays on the device that holds it.
  def cut(x):
    x = x.reshape(rows // accum, accum, *x.shape[1:]).swapaxes(0, 1)
    spec = jax.sharding.PartitionSpec(None, sharding.row_axes(mesh))
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, spec))

  def body(carry, part_and_index):
    part, index = part_and_index
    part_key = None if key is None else jax.random.fold_in(key, index)
    return jax.tree.map(jnp.add, carry, grad_fn(trainable, part, part_key)), None

  parts = jax.tree.map(cut, batch)
  shapes = jax.eval_shape(grad_fn, trainable, jax.tree.map(lambda x: x[0], parts), key)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)
  total, _ = jax.lax.scan(body, zeros, (parts, jnp.arange(accum)))
  return total
