"""Optimizers, schedules and losses of the user's own: what they must be, checked by shapes alone.

A wrong function is refused before weights are read. Each is traced by JAX, so that it is written
with jax.numpy, keeps no state outside of its arguments, and may be traced more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs


def optimizer(
  optim: Any, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> optax.GradientTransformation:
  """The rule that `optim.custom(optim)` returns, in place of the one of `optim.name`.

  It sees the trainable parameters alone, as a flat dict {published name: float32 array}, and gives
  directions, as `optax.scale_by_lion` does: the trainer clips gradients before it, and after
  it multiplies by `lr`, `lr_mults` and the schedule, adds weight decay and subtracts. State is any
  tree of arrays whose shapes and dtypes do not change. A leaf under a parameter's name is sharded
  as that parameter when it has its shape, the others are on every device; all are saved with the
  run. The rule is computed twice a step, and skipped after gradients that are not finite.

  Args:
    optim: the section of the configuration; options of the built-in rules are free for use.
    shapes: of the trainable parameters.

  Raises:
    ConfigError: it is no such rule.
  """
  key = "optim.custom"
  rule = _called(key, optim.custom, lambda: optim.custom(optim))
  if not isinstance(rule, optax.GradientTransformation):
    raise errors.ConfigError(
      f"{_name(key, optim.custom)} returned a {type(rule).__name__}; it must return an"
      " optax.GradientTransformation."
    )
  params = {name: jax.ShapeDtypeStruct(s.shape, jnp.float32) for name, s in shapes.items()}
  state = _called(key, optim.custom, lambda: jax.eval_shape(rule.init, params))
  dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
  if keys := [dtype for dtype in dtypes if jnp.issubdtype(dtype, jax.dtypes.extended)]:
    raise errors.ConfigError(
      f"{_name(key, optim.custom)} has {keys[0]} in its state; it must hold numbers only, such"
      " as jax.random.key_data of a key."
    )
  found = _called(key, optim.custom, lambda: jax.eval_shape(rule.update, params, state, params))
  for what, given, wanted in (("directions", found[0], params), ("state", found[1], state)):
    left, right = _shapes(given), _shapes(wanted)
    if differing := [path for path in (*right, *left) if left.get(path) != right.get(path)]:
      path = differing[0]
      raise errors.ConfigError(
        f"{_name(key, optim.custom)}: update returns {what} of other names, shapes or dtypes than"
        f" it was given: {path or 'all'} is {left.get(path, 'absent')}, not"
        f" {right.get(path, 'absent')}."
      )
  return rule


def schedule(fn: Callable[..., Any], total: int) -> Callable[[jax.Array], jax.Array]:
  """step float32[] -> share of lr float32[]: `optim.custom_schedule(step, total)`.

  `step` counts from 0 to total - 1. Warm-up and cool-down multiply it, as they do ours.

  Raises:
    ConfigError: it gives no number, or cannot be traced.
  """
  key = "optim.custom_schedule"
  step = jax.ShapeDtypeStruct((), jnp.float32)
  found = _called(key, fn, lambda: jax.eval_shape(lambda step: fn(step, total), step))
  _check(key, fn, found, ())
  return lambda step: fn(step, total)


def token_loss(fn: Callable[..., Any], vocab_size: int) -> Callable[..., Any]:
  """The loss per token that `train.loss` is, in place of the cross-entropy.

  It takes logits float32[B, c, V] and targets int32[B, c] of c positions of each row, and returns
  float[B, c]. Only positions that are supervised come, some at a time, so that logits stay small;
  their losses are weighted by the mask and averaged over each row, then over rows. Evaluators
  report the cross-entropy as before.

  Raises:
    ConfigError: it gives another shape, or cannot be traced.
  """
  key, shape = "train.loss", (2, 3)
  logits = jax.ShapeDtypeStruct((*shape, vocab_size), jnp.float32)
  targets = jax.ShapeDtypeStruct(shape, jnp.int32)
  _check(key, fn, _called(key, fn, lambda: jax.eval_shape(fn, logits, targets)), shape)
  return fn


def _called(key: str, fn: Any, call: Callable[[], Any]) -> Any:
  """What `call` returns; an error of the user's code names the key and the function."""
  try:
    return call()
  except errors.PaligemmaError:
    raise
  except Exception as e:  # Of the user's code: any.
    raise errors.ConfigError(
      f"{_name(key, fn)} failed: {type(e).__name__}: {str(e).partition(chr(10))[0]}"
    ) from e


def _check(key: str, fn: Any, found: Any, shape: tuple[int, ...]) -> None:
  fits = isinstance(found, jax.ShapeDtypeStruct) and found.shape == shape
  if not fits or not jnp.issubdtype(found.dtype, jnp.floating):
    given = {2: "logits [2, 3, V] and targets [2, 3]", 0: "a step and the total"}[len(shape)]
    raise errors.ConfigError(
      f"{_name(key, fn)} returns {_text(found)} for {given}; it must return floats of the shape"
      f" {list(shape)}."
    )


def _name(key: str, fn: Any) -> str:
  return f"{key}={specs.function_path(fn) or repr(fn)}"


def _shapes(tree: Any) -> dict[str, str]:
  """{path: dtype and shape} of a tree's leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): _text(leaf) for path, leaf in leaves}


def _text(found: Any) -> str:
  if isinstance(found, jax.ShapeDtypeStruct):
    return f"{found.dtype}{list(found.shape)}"
  return f"a {type(found).__name__}"
