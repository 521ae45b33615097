"""What trains, how fast, and how: freezing, schedules and update rules by parameter name."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.core import units
from paligemma_jax.models import paligemma
from paligemma_jax.training import adam8bit

Schedule = Callable[[jax.Array], jax.Array]  # step int32[] -> multiplier float32[]


class Optimizer(NamedTuple):
  """An update rule over flat dicts of trainable parameters.

  init: (trainable) -> state, with leaves for the trainable alone.
  update: (gradients, state, trainable, step) -> (updates to add, state).
  schedule: (step) -> float32[] learning rate of that step, before any `lr_mults`.
  ema: decay of the averages that are kept of the trainable; 0: none are.
  """

  init: Callable[..., Any]
  update: Callable[..., tuple[Any, Any]]
  schedule: Schedule
  ema: float = 0.0


def split(names: Iterable[str], optim: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """(trainable names, frozen names), both sorted; every name is in exactly one.

  `optim.train_only` (if any) selects what may train, `optim.freeze` then takes away from it.

  Raises:
    ConfigError: a regex matches no parameter, nothing is left to train, or what is packed would.
  """
  names = sorted(names)
  trainable = set(names)
  if optim.train_only:
    trainable = trees.matches(optim.train_only, names, "optim.train_only")
  if optim.freeze:
    trainable = trainable - trees.matches(optim.freeze, names, "optim.freeze")
  if not trainable:
    raise errors.ConfigError(
        f"optim.freeze={tuple(optim.freeze)} and optim.train_only={tuple(optim.train_only)} leave"
        " no parameter to train."
    )
  if packed := sorted(n for n in trainable if paligemma.is_packed(n)):
    raise errors.ConfigError(
        f"{packed[0]} and {len(packed) - 1} more are packed (model.packed) and cannot train; leave"
        " them out with optim.freeze or optim.train_only, or out of model.packed_names."
    )
  return tuple(n for n in names if n in trainable), tuple(n for n in names if n not in trainable)


def make(
    optim: Any,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    total_steps: int,
    *,
    names: Iterable[str],
    batch_size: int,
    num_examples: int = 0,
) -> Optimizer:
  """The optimizer that the `optim` section of a config describes.

  Weight decay follows the reference: it is multiplied by the schedule and not by `lr`.

  Args:
    optim: the config section.
    shapes: of the trainable parameters, by name.
    total_steps: of the run.
    names: of all parameters. Regexes are checked against these, so that a rule for a part that
      is frozen in this run stays legal.
    batch_size: rows per step, for a warm-up given in examples or epochs.
    num_examples: rows of an epoch, for a warm-up given in epochs.
  """
  names = list(names)
  mults = trees.first_match(tuple(optim.lr_mults), names, "optim.lr_mults")
  decayed = trees.matches(optim.wd_names, names, "optim.wd_names") if optim.wd_names else set()
  schedule = make_schedule(optim, total_steps, batch_size=batch_size, num_examples=num_examples)
  rule = transform(
      optim,
      schedules=dict.fromkeys(shapes, schedule),
      lrs={name: optim.lr * mults[name] if name in mults else optim.lr for name in shapes},
      wds={name: optim.wd if name in decayed else 0.0 for name in shapes},
  )
  return Optimizer(rule.init, rule.update, lambda step: optim.lr * schedule(step), optim.ema)


def transform(
    optim: Any,
    *,
    schedules: Mapping[str, Schedule],
    lrs: Mapping[str, float],
    wds: Mapping[str, float],
) -> Optimizer:
  """The update rule, its last steps given leaf by leaf.

  In this order: clip by the global norm of the trainable leaves; the rule's direction; times the
  leaf's learning rate; plus the leaf's decay times the parameter; times the leaf's schedule.
  The schedule goes by the step it is handed and not by a counter of its own: a skipped update
  (non-finite gradients) does not shift the schedule of the rest of the run.

  A `mu_dtype` of bfloat16 also rounds b1 in b1 * mu (optax does so, and so did the reference).

  Args:
    optim: of which name, b1, b2, eps, mu_dtype, momentum, rms_clip and clip are read.
    schedules, lrs, wds: for each trainable name.
  """
  direction = optax.named_chain(
      ("clip", _clip(optim.clip) if optim.clip else optax.identity()),
      ("rule", errors.pick(_RULES, optim.name, "optim.name")(optim)),
  )

  def update(gradients, state, params, step):
    directions, state = direction.update(gradients, state, params)
    # Each schedule is traced once, not once per leaf.
    factors = {fn: fn(step) for fn in set(schedules.values())}
    updates = {}
    for name, d in directions.items():
      u = d.astype(jnp.float32) * lrs[name]
      if wds[name]:
        u = u + wds[name] * params[name].astype(jnp.float32)
      updates[name] = -u * factors[schedules[name]]
    return updates, state

  return Optimizer(direction.init, update, next(iter(schedules.values())))


def averaged(
    decay: float,
    ema: Mapping[str, jax.Array],
    params: Mapping[str, jax.Array],
    step: jax.Array,
) -> dict[str, jax.Array]:
  """The moving averages after one more step; {} when none are kept.

  The decay of step t is min(decay, (1 + t) / (10 + t)), so that a short run's average is not mostly
  what it started from.

  Args:
    ema: of the step before; at step 0 the parameters themselves.
    params: after the update.
    step: int32[], steps done before this one.
  """
  t = step.astype(jnp.float32)
  share = 1.0 - jnp.minimum(decay, (1.0 + t) / (10.0 + t))
  return {name: old + share * (params[name] - old) for name, old in ema.items()}


def make_schedule(
    optim: Any, total_steps: int, *, batch_size: int, num_examples: int = 0
) -> Schedule:
  """step -> multiplier float32[] of the learning rate, in [0, 1]; 0 at step 0 with a warm-up.

  `schedule_start=1` begins one step into a schedule that is one step longer, so that no update of
  the run has a multiplier of 0.

  Raises:
    ConfigError: unknown schedule, or warm-up and cool-down that do not fit the run.
  """
  kind = errors.pick(_DECAYS, optim.schedule, "optim.schedule")
  total = total_steps + optim.schedule_start
  sizes = dict(batch_size=batch_size, num_examples=num_examples, total_steps=total)
  warmup = units.to_steps(optim.warmup, "optim.warmup", **sizes)
  cooldown = units.to_steps(optim.cooldown, "optim.cooldown", **sizes)
  # A run of one step (a smoke test) keeps its one step of warm-up.
  if warmup + cooldown > total or (warmup == total and total > 1):
    raise errors.ConfigError(
        f"optim.warmup={optim.warmup!r} is {warmup} steps and optim.cooldown={optim.cooldown!r} is"
        f" {cooldown}; they do not fit a run of {total_steps} steps."
    )

  def schedule(step):
    step = jnp.asarray(step, jnp.float32) + optim.schedule_start
    progress = jnp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
    value = kind(optim, progress, jnp.maximum(step - warmup, 0.0))
    if warmup:
      value = value * jnp.minimum(1.0, step / warmup)
    if cooldown:
      value = value * jnp.clip((total - step) / cooldown, 0.0, 1.0)
    return jnp.asarray(value, jnp.float32)

  return schedule


def _clip(limit):
  """optax.clip_by_global_norm with a product in place of its quotient.

  The compiler works products into all that reads them. Quotients it computes once and writes out: a
  copy of all gradients, for each of the two times that the update is worked out.
  """

  def update(gradients, state, params=None):
    del params
    norm = optax.global_norm(gradients)
    factor = jnp.where(norm < limit, 1.0, limit / norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adam(optim):
  dtype = errors.pick(_MU_DTYPES, optim.mu_dtype, "optim.mu_dtype")
  return optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps, mu_dtype=dtype)


def _sgd(optim):
  if not optim.momentum:
    return optax.identity()
  dtype = errors.pick(_MU_DTYPES, optim.mu_dtype, "optim.mu_dtype")
  return optax.trace(decay=optim.momentum, accumulator_dtype=dtype)


def _adam8bit(optim):
  return adam8bit.scale_by_adam8bit(b1=optim.b1, b2=optim.b2, eps=optim.eps)


def _adafactor(optim):
  """The variant that ViTs were scaled up with (arXiv:2106.04560): momentum, no relative steps."""
  dtype = errors.pick(_MU_DTYPES, optim.mu_dtype, "optim.mu_dtype")
  return optax.chain(
      optax.scale_by_factored_rms(
          min_dim_size_to_factor=_FACTORED_FROM,
          epsilon=optim.eps,
          decay_rate_fn=lambda step, exponent: jnp.minimum(
              optim.b2, 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -exponent
          ),
      ),
      optax.clip_by_block_rms(optim.rms_clip) if optim.rms_clip else optax.identity(),
      optax.ema(optim.b1, debias=False, accumulator_dtype=dtype)
      if optim.b1
      else optax.identity(),
  )


# A matrix whose lesser side is below it keeps its whole second moment. More than the layers there
# are, so that the scales of norms are not averaged over them.
_FACTORED_FROM = 64
_RULES = {"adam": _adam, "adam8bit": _adam8bit, "adafactor": _adafactor, "sgd": _sgd}
_MU_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# (optim, share of the run after the warm-up, steps after the warm-up) -> multiplier.
_DECAYS = {
    "cosine": lambda optim, progress, steps: 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
    "linear": lambda optim, progress, steps: (
        optim.schedule_end + (1.0 - optim.schedule_end) * (1.0 - progress)
    ),
    "constant": lambda optim, progress, steps: jnp.ones_like(progress),
    "rsqrt": lambda optim, progress, steps: jax.lax.rsqrt(1.0 + steps / optim.rsqrt_timescale),
}
