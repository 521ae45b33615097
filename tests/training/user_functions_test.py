"""Optimizers, schedules and losses of the user's own: what they may be, and what refuses others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paligemma_jax.core import errors
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import user_functions
from tests.training.optim_section import optim

_SHAPES = {
  "img/w": jax.ShapeDtypeStruct((3, 4), jnp.float32),
  "llm/b": jax.ShapeDtypeStruct((5,), jnp.float32),
}


def lion(optim):
  return optax.scale_by_lion(b1=optim.b1, b2=optim.b2)


def adam(optim):
  return optax.scale_by_adam(optim.b1, optim.b2, optim.eps)


def thirds(step, total):
  return 0.1 ** jnp.floor(3.0 * step / total)


def _make(total=12, names=_SHAPES, **changes):
  rest = dict(warmup="", lr=0.5, grad_clip_norm=0.0, wd_names=(".*",))
  section = optim(**{**rest, **changes})
  return optimizers.make(section, _SHAPES, total, names=names, batch_size=1)


def _params(seed):
  rng = np.random.default_rng(seed)
  return {n: jnp.asarray(rng.normal(size=s.shape), jnp.float32) for n, s in _SHAPES.items()}


def _after(rule, steps=3):
  params = _params(0)
  state = rule.init(params)
  for step in range(steps):
    gradients = {name: (g,) for name, g in _params(step + 1).items()}
    params, state = rule.apply(gradients, state, params, jnp.int32(step), True)
  return params


def test_the_rule_of_adam_given_as_ones_own_is_adam_to_the_bit():
  rest = dict(lr_mults=(("img/.*", 0.1),), wd=0.01)
  ours, own = (_after(_make(**rest, **key)) for key in ({"name": "adam"}, {"custom": adam}))
  for name in _SHAPES:
    np.testing.assert_array_equal(ours[name], own[name])


def test_learning_rate_its_factors_and_the_schedule_act_on_ones_own_rule():
  rule = _make(custom=lion, custom_schedule=thirds, lr_mults=(("img/.*", 0.5),), total=3)
  start, end = _params(0), _after(rule, steps=1)
  np.testing.assert_allclose(np.abs(end["llm/b"] - start["llm/b"]), 0.5, rtol=1e-6)
  np.testing.assert_allclose(np.abs(end["img/w"] - start["img/w"]), 0.25, rtol=1e-6)
  np.testing.assert_allclose([rule.schedule(t) for t in range(3)], [0.5, 0.05, 0.005], rtol=1e-5)


def test_warm_up_and_cool_down_multiply_ones_own_schedule():
  section = optim(custom_schedule=lambda step, total: jnp.float32(1), warmup="50%", cooldown="25%")
  schedule = optimizers.make_schedule(section, 8, batch_size=1)
  np.testing.assert_allclose([schedule(t) for t in (0, 2, 4, 6, 7)], [0, 0.5, 1, 1, 0.5])


def test_state_by_the_names_of_parameters_is_sharded_as_they_are():
  def of_two_rules(optim):
    labels = lambda params: {name: name[:3] for name in params}  # noqa: E731
    return optax.multi_transform({"img": optax.scale_by_adam(), "llm": optax.trace(0.9)}, labels)

  mesh = jax.sharding.Mesh(jax.devices()[:1], ("fsdp",))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
  shapes = {"img/w": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=place)}
  rule = optimizers.make(
    optim(custom=of_two_rules, wd_names=()), shapes, 9, names=shapes, batch_size=1
  )
  state = jax.eval_shape(rule.init, shapes)
  places = sharding.like_params(state, shapes, mesh)
  found = [
    p for p, s in zip(jax.tree.leaves(places), jax.tree.leaves(state), strict=True) if s.ndim
  ]
  assert len(found) == 2 and all(p == place for p in found)


def _returns(rule):
  return lambda optim: rule


_KEY = optax.GradientTransformation(lambda p: jax.random.key(0), lambda g, s, p: (g, s))
_SCALAR = optax.GradientTransformation(lambda p: (), lambda g, s, p: ({"img/w": 0.0}, s))
_GROWS = optax.GradientTransformation(
  lambda p: {"count": jnp.int32(0)}, lambda g, s, p: (g, {"count": s["count"] + 0.5})
)
_ONE_LEAF = optax.GradientTransformation(lambda p: jnp.int32(0), lambda g, s, p: (g, s + 0.5))
_FAILS = optax.GradientTransformation(lambda p: (), lambda g, s, p: g["img/w"] @ g["img/w"])


@pytest.mark.parametrize(
  "make, message",
  [
    (_returns(0.1), "returned a float; it must return an optax.GradientTransformation"),
    (_returns(optax.adam), "returned a function; it must return an optax.Gradient"),
    (lambda: optax.sgd(1.0), "failed: TypeError: .*takes 0 positional arguments"),
    (_returns(_KEY), r"key<fry> in its state; it must hold numbers only"),
    (_returns(_SCALAR), r"update returns directions of other .*\['img/w'\] is .*float32\[3, 4\]"),
    (_returns(_GROWS), r"update returns state of other .*count'\] is float32\[\], not int32\[\]"),
    (_returns(_ONE_LEAF), r"returns state of other .* all is float32\[\], not int32\[\]"),
    (_returns(_FAILS), "failed: TypeError: dot_general requires"),
  ],
)
def test_what_is_no_optimizer_is_refused_with_one_sentence(make, message):
  with pytest.raises(errors.ConfigError, match=f"optim.custom=.*{message}") as e:
    _make(custom=make)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "fn, message",
  [
    (lambda step: 1.0, "failed: TypeError"),
    (lambda step, total: step < 3 and 1.0, "failed: TracerBoolConversionError"),
    (lambda step, total: None, "returns a NoneType for a step and the total"),
    (lambda step, total: jnp.ones(2), r"returns float32\[2\] .* floats of the shape \[\]"),
  ],
)
def test_what_is_no_schedule_is_refused_with_one_sentence(fn, message):
  with pytest.raises(errors.ConfigError, match=f"optim.custom_schedule=.*{message}"):
    _make(custom_schedule=fn)


@pytest.mark.parametrize(
  "fn, message",
  [
    (lambda logits: logits, "failed: TypeError"),
    (lambda logits, targets: logits, r"returns float32\[2, 3, 50\] for logits \[2, 3, V\]"),
    (lambda logits, targets: logits.sum(), r"returns float32\[\] .* floats of the shape \[2, 3\]"),
    (lambda logits, targets: targets, r"returns int32\[2, 3\] .* must return floats"),
    (lambda logits, targets: (logits, targets), "returns a tuple for"),
  ],
)
def test_what_is_no_loss_is_refused_with_one_sentence(fn, message):
  with pytest.raises(errors.ConfigError, match=f"train.loss=.*{message}"):
    user_functions.token_loss(fn, 50)


def nll(logits, targets):
  target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - target


@pytest.mark.parametrize("chunk", [1, 16])
def test_the_cross_entropy_given_as_ones_own_is_the_cross_entropy_also_in_chunks(chunk):
  rng = np.random.default_rng(0)
  table, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((50, 8), (6, 20, 8)))
  targets = jnp.asarray(rng.integers(0, 50, (6, 20)))
  mask = jnp.asarray(rng.random((6, 20)) < 0.5, jnp.float32)

  def sums(x, token_loss):
    losses = loss.token_losses(
      lambda x: x @ table.T,
      x,
      targets,
      mask,
      num_supervised=16,
      chunk=chunk,
      token_loss=token_loss,
    )
    found = loss.row_sums(losses)
    return found.loss_sum.sum(), found

  grad = jax.value_and_grad(sums, has_aux=True)
  ours = grad(x, loss.cross_entropy(0.0))
  own = grad(x, loss.own(user_functions.token_loss(nll, 50)))
  for got, want in zip(jax.tree.leaves(own), jax.tree.leaves(ours), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
