"""Optimizers, schedules and losses of the user's own, checked by shapes alone, before weights are
read; docs/extending.md says what they are given and what they must return.
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

  It gives directions, as `optax.scale_by_lion` does. A leaf of its state under a parameter's name
  is sharded as that parameter when it has its shape, the others are on every device. The rule is
  computed twice a step, and skipped after gradients that are not finite.

  Raises:
    ConfigError: it is no such rule.
  """
  key, name = "optim.custom", _name("optim.custom", optim.custom)
  rule = _called(key, optim.custom, lambda: optim.custom(optim))
  if not isinstance(rule, optax.GradientTransformation):
    raise errors.ConfigError(
      f"{name} returned a {type(rule).__name__}; it must return an optax.GradientTransformation."
    )
  params = {name: jax.ShapeDtypeStruct(s.shape, jnp.float32) for name, s in shapes.items()}
  state = _called(key, optim.custom, lambda: jax.eval_shape(rule.init, params))
  dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
  if keys := [dtype for dtype in dtypes if jnp.issubdtype(dtype, jax.dtypes.extended)]:
    raise errors.ConfigError(
      f"{name} has {keys[0]} in its state; it must hold numbers only, such as jax.random.key_data"
      " of a key."
    )
  found = _called(key, optim.custom, lambda: jax.eval_shape(rule.update, params, state, params))
  for what, given, wanted in (("directions", found[0], params), ("state", found[1], state)):
    left, right = _shapes(given), _shapes(wanted)
    if differing := [path for path in (*right, *left) if left.get(path) != right.get(path)]:
      path = differing[0]
      raise errors.ConfigError(
        f"{name}: update returns {what} of other names, shapes or dtypes than it was given:"
        f" {path or 'all'} is {left.get(path, 'absent')}, not {right.get(path, 'absent')}."
      )
  return rule


def schedule(fn: Callable[..., Any], total: int) -> Callable[[jax.Array], jax.Array]:
  """step float32[] -> share of lr float32[]: `optim.custom_schedule(step, total)`.

  Raises:
    ConfigError: it gives no number, or cannot be traced.
  """

  def own(step):
    return fn(step, total)

  _check("optim.custom_schedule", fn, own, jax.ShapeDtypeStruct((), jnp.float32), returns=())
  return own


def token_loss(fn: Callable[..., Any], vocab_size: int) -> Callable[..., Any]:
  """`train.loss`: logits float32[B, c, V], targets int32[B, c] -> loss per token, float[B, c].

  Raises:
    ConfigError: it gives another shape, or cannot be traced.
  """
  logits = jax.ShapeDtypeStruct((2, 3, vocab_size), jnp.float32)
  targets = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  _check("train.loss", fn, fn, logits, targets, returns=(2, 3))
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


def _check(key: str, fn: Any, call: Any, *given: Any, returns: tuple[int, ...]) -> None:
  """A ConfigError that names `fn` unless `call`, which calls it, returns floats of this shape."""
  found = _called(key, fn, lambda: jax.eval_shape(call, *given))
  fits = isinstance(found, jax.ShapeDtypeStruct) and found.shape == returns
  if not fits or not jnp.issubdtype(found.dtype, jnp.floating):
    inputs = "logits [2, 3, V] and targets [2, 3]" if returns else "a step and the total"
    raise errors.ConfigError(
      f"{_name(key, fn)} returns {_text(found)} for {inputs}; it must return floats of the shape"
      f" {list(returns)}."
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
