"""Trainable parameters, schedules and update rules, by parameter name."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.models import paligemma
from paligemma_jax.training import adam8bit
from paligemma_jax.training import user_functions

Schedule = Callable[[jax.Array], jax.Array]  # step int32[] -> multiplier float32[]


class Optimizer(NamedTuple):
  """An update rule over flat dicts of trainable parameters.

  A gradient is a tuple of arrays of the leaf's shape, to be summed in float32: parts in 16 bits
  stay so until the rule reads them.

  init: (trainable) -> state.
  norm: (gradients, state, trainable, step) -> float32[], of all that `apply` would add.
  apply: (gradients, state, trainable, step, counts) -> (trainable, state) after the update; where
    `counts` (bool[]) is False they are as they were.
  schedule: (step) -> float32[] learning rate of that step, before any `lr_mults`.
  ema: decay of the moving averages of the trainable; 0: none are kept.
  """

  init: Callable[..., Any]
  norm: Callable[..., jax.Array]
  apply: Callable[..., tuple[Any, Any]]
  schedule: Schedule
  ema: float = 0.0


def split(names: Iterable[str], optim: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """(trainable names, frozen names), both sorted; every name is in exactly one.

  `optim.train_only` (if any) selects what may train, `optim.freeze` then takes away from it.

  Raises:
    ConfigError: a regex matches no parameter, no trainable one is left, or one is quantized.
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
  if codes := sorted(n for n in trainable if paligemma.is_quantized(n)):
    raise errors.ConfigError(
      f"{codes[0]} and {len(codes) - 1} more are quantized (model.quantize) and cannot train; leave"
      " them out with optim.freeze or optim.train_only, or out of model.quantize_targets."
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
    shapes: of the trainable parameters, by name; with shardings, where devices share leaves.
    names: of all parameters. Regexes are checked against these, so a rule for a frozen parameter
      stays legal.
    batch_size, num_examples: as in `make_schedule`.
  """
  names = list(names)
  mults = trees.first_match(tuple(optim.lr_mults), names, "optim.lr_mults")
  decayed = trees.matches(optim.wd_names, names, "optim.wd_names")
  schedule = make_schedule(optim, total_steps, batch_size=batch_size, num_examples=num_examples)
  rule = transform(
    optim,
    rule=user_functions.optimizer(optim, shapes) if optim.custom is not None else None,
    schedules=dict.fromkeys(shapes, schedule),
    lrs={name: optim.lr * mults.get(name, 1.0) for name in shapes},
    wds={name: optim.wd if name in decayed else 0.0 for name in shapes},
    specs={name: getattr(getattr(s, "sharding", None), "spec", ()) for name, s in shapes.items()},
  )
  return rule._replace(schedule=lambda step: optim.lr * schedule(step), ema=optim.ema)


def transform(
  optim: Any,
  *,
  rule: optax.GradientTransformation | None = None,
  schedules: Mapping[str, Schedule],
  lrs: Mapping[str, float],
  wds: Mapping[str, float],
  specs: Mapping[str, Sequence[Any]] = types.MappingProxyType({}),
) -> Optimizer:
  """The update rule, its last steps given leaf by leaf.

  In this order: clip by the global norm of the trainable leaves; the rule's direction; times the
  leaf's learning rate; plus the leaf's decay times the parameter; times the leaf's schedule.
  The schedule depends on the step it is given and has no counter of its own: a skipped update
  (non-finite gradients) does not shift it.

  A `mu_dtype` of bfloat16 also rounds b1 in b1 * mu, as in optax and the reference.

  Args:
    rule: gives the direction in place of the rule that `optim` names.
    schedules, lrs, wds: for each trainable name.
    specs: partition specs by trainable name, of sharded leaves.
  """
  rule = rule or errors.pick(_RULES, optim.name, "optim.name")(optim)
  direction = optax.named_chain(
    ("clip", _clip(optim.grad_clip_norm) if optim.grad_clip_norm else optax.identity()),
    ("rule", rule),
  )

  def scaled(step):
    """(name, direction, parameter) -> what is added to the parameter."""
    # Each schedule is traced once, not once per leaf.
    factors = {fn: fn(step) for fn in set(schedules.values())}

    def of(name, d, p):
      u = d.astype(jnp.float32) * lrs[name]
      if wds[name]:
        u = u + wds[name] * p.astype(jnp.float32)
      return -u * factors[schedules[name]]

    return of

  if isinstance(rule, adam8bit.Adam8bit):
    norm, apply = _part_by_part(rule, optim.grad_clip_norm, scaled, specs)
  else:
    norm, apply = _all_at_once(direction, scaled)
  return Optimizer(direction.init, norm, apply, next(iter(schedules.values())))


def averaged(
  decay: float,
  ema: Mapping[str, jax.Array],
  params: Mapping[str, jax.Array],
  step: jax.Array,
) -> dict[str, jax.Array]:
  """The moving averages after one more step, int32[] `step`; {} when none are kept.

  `ema` at step 0 are the parameters. The decay of step t is min(decay, (1 + t) / (10 + t)), so that
  the average of a short run is not mostly its initial weights.
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

  Args:
    batch_size: rows per step, for a warm-up given in examples or epochs.
    num_examples: rows of an epoch, for a warm-up given in epochs.

  Raises:
    ConfigError: unknown schedule, or warm-up and cool-down that do not fit the run.
  """
  kind = errors.pick(_DECAYS, optim.schedule, "optim.schedule")
  total = total_steps + optim.schedule_start
  own = None
  if optim.custom_schedule is not None:
    own = user_functions.schedule(optim.custom_schedule, total)
  sizes = dict(batch_size=batch_size, num_examples=num_examples, total_steps=total)
  warmup = schema.to_steps(optim.warmup, "optim.warmup", **sizes)
  cooldown = schema.to_steps(optim.cooldown, "optim.cooldown", **sizes)
  # A run of one step (a smoke test) keeps its one step of warm-up.
  if warmup + cooldown > total or (warmup == total and total > 1):
    raise errors.ConfigError(
      f"optim.warmup={optim.warmup!r} is {warmup} steps and optim.cooldown={optim.cooldown!r} is"
      f" {cooldown}; they do not fit a run of {total_steps} steps."
    )

  def schedule(step):
    step = jnp.asarray(step, jnp.float32) + optim.schedule_start
    progress = jnp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
    value = own(step) if own else kind(optim, progress, jnp.maximum(step - warmup, 0.0))
    if warmup:
      value = value * jnp.minimum(1.0, step / warmup)
    if cooldown:
      value = value * jnp.clip((total - step) / cooldown, 0.0, 1.0)
    return jnp.asarray(value, jnp.float32)

  return schedule


def whole(gradients: Mapping[str, tuple[jax.Array, ...]]) -> dict[str, jax.Array]:
  """Gradients as single float32 arrays."""
  return {name: _sum(parts) for name, parts in gradients.items()}


def _sum(gradient):
  return sum(g.astype(jnp.float32) for g in gradient)


def _all_at_once(direction, scaled):
  """(norm, apply) of rules that the compiler can fuse into one elementwise pass."""

  def update(gradients, state, params, step):
    directions, state = direction.update(whole(gradients), state, params)
    of = scaled(step)
    return {name: of(name, d, params[name]) for name, d in directions.items()}, state

  def norm(gradients, state, params, step):
    return optax.global_norm(update(gradients, state, params, step)[0])

  def apply(gradients, state, params, step, counts):
    updates, new_state = update(gradients, state, params, step)
    new = {name: p + updates[name] for name, p in params.items()}, new_state
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), new, (params, state))

  return norm, apply


def _part_by_part(rule, clip, scaled, specs):
  """(norm, apply) of Adam in 8 bits: only one part of a leaf is in float32 at a time.

  A block's scale needs all its new moments, so the update is not elementwise: the moments,
  direction and gradient of a whole leaf would be written out in float32, more than the bytes saved.
  The loops overwrite what they have read.
  """

  def update(gradients, state, step):
    """(name, gradient, parameter, kept) -> (update, kept), for parts; and the count."""
    count = state["rule"].count + 1
    factor = _clip_factor(whole(gradients), clip) if clip else 1.0
    of = scaled(step)

    def part(name, gradient, p, kept):
      direction, kept = rule.part(_sum(gradient) * factor, kept, count)
      return of(name, direction, p), kept

    return part, count

  def norm(gradients, state, params, step):
    part, _ = update(gradients, state, step)
    total = jnp.float32(0.0)
    for name, p in params.items():
      leaf = (gradients[name], p, state["rule"].kept(name))
      num, take, _ = _parts(p.shape, specs.get(name, ()))

      def add(i, total, name=name, leaf=leaf, take=take):
        return total + jnp.square(part(name, *take(leaf, i))[0]).sum()

      total = jax.lax.fori_loop(0, num, add, total)
    return jnp.sqrt(total)

  def apply(gradients, state, params, step, counts):
    part, count = update(gradients, state, step)
    new_params, kept = {}, {}
    for name, p in params.items():
      num, take, put = _parts(p.shape, specs.get(name, ()))

      def write(i, leaf, name=name, take=take, put=put):
        p, kept = old = take(leaf, i)
        u, kept = part(name, take(gradients[name], i), p, kept)
        new = jax.tree.map(lambda new, old: jnp.where(counts, new, old), (p + u, kept), old)
        return put(leaf, new, i)

      leaf = (p, state["rule"].kept(name))
      new_params[name], kept[name] = jax.lax.fori_loop(0, num, write, leaf)
    count = jnp.where(counts, count, state["rule"].count)
    return new_params, type(state)({**state, "rule": adam8bit.State.of(count, kept)})

  return norm, apply


def _parts(shape, spec):
  """(number of parts, (arrays, i) -> their i-th parts, (arrays, parts, i) -> arrays with them).

  Parts go along a dim that is not sharded: layers, or rows of a matrix, or blocks of its rows.
  Arrays are leaves of that shape, and scales, which have one number for a block of 256.
  """
  sharded = [dim for dim, axes in enumerate(spec) if axes]
  size = math.prod(shape)
  num = dim = 0
  if size >= _WHOLE_BELOW and len(shape) > 2 and 0 not in sharded:
    num = shape[0]
  elif size >= _WHOLE_BELOW and len(shape) == 2:
    if 0 not in sharded:
      num = next((n for n in range(-(-size // _PART), shape[0]) if shape[0] % n == 0), 0)
    if not num and 1 not in sharded and shape[1] % adam8bit.BLOCK == 0:
      num, dim = shape[1] // adam8bit.BLOCK, 1
  if not num:
    return 1, lambda tree, i: tree, lambda tree, parts, i: parts

  def take(tree, i):
    def one(x):
      width = x.shape[dim] // num
      return jax.lax.dynamic_slice_in_dim(x, i * width, width, dim)

    return jax.tree.map(one, tree)

  def put(tree, parts, i):
    def one(x, part):
      return jax.lax.dynamic_update_slice_in_dim(x, part, i * part.shape[dim], dim)

    return jax.tree.map(one, tree, parts)

  return num, take, put


def _clip(limit):
  """optax.clip_by_global_norm with a product in place of its quotient.

  The compiler fuses products into what reads them. It writes quotients out: a copy of all gradients
  for each of the two times that the update is computed.
  """

  def update(gradients, state, params=None):
    del params
    factor = _clip_factor(gradients, limit)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _clip_factor(gradients, limit):
  norm = optax.global_norm(gradients)
  return jnp.where(norm < limit, 1.0, limit / norm)


def _mu_dtype(optim):
  return errors.pick(_MU_DTYPES, optim.mu_dtype, "optim.mu_dtype")


def _sgd(optim):
  momentum = optax.trace(optim.momentum, accumulator_dtype=_mu_dtype(optim))
  return momentum if optim.momentum else optax.identity()


def _adafactor(optim):
  """The variant that ViTs were scaled up with (arXiv:2106.04560): momentum, no relative steps."""
  momentum = optax.ema(optim.b1, debias=False, accumulator_dtype=_mu_dtype(optim))
  return optax.chain(
    optax.scale_by_factored_rms(
      min_dim_size_to_factor=_FACTORED_FROM,
      epsilon=optim.eps,
      decay_rate_fn=lambda step, exponent: jnp.minimum(
        optim.b2, 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -exponent
      ),
    ),
    optax.clip_by_block_rms(optim.rms_clip) if optim.rms_clip else optax.identity(),
    momentum if optim.b1 else optax.identity(),
  )


# A matrix with a smaller side than this keeps its whole second moment. It is more than the number
# of layers, so that the scales of norms are not averaged over layers.
_FACTORED_FROM = 64
# Smaller leaves are computed in one part: a loop would take longer and save nothing.
_WHOLE_BELOW = 2**20
_PART = 2**22  # Numbers of a part of a matrix, at most, where its rows divide so.
_RULES = {
  "adam": lambda optim: optax.scale_by_adam(
    optim.b1, optim.b2, optim.eps, mu_dtype=_mu_dtype(optim)
  ),
  "adam8bit": lambda optim: adam8bit.scale_by_adam8bit(b1=optim.b1, b2=optim.b2, eps=optim.eps),
  "adafactor": _adafactor,
  "sgd": _sgd,
}
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
