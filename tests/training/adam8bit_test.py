"""The 8-bit codes against the published recipe, and Adam on them against Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paligemma_jax.training import adam8bit


def _published_map(signed):
  """The 256 shares by the recipe of arXiv:2110.02861: middles of ever finer steps per decade."""
  shares = [0.0, 1.0]
  for i in range(7):
    borders = np.linspace(0.1, 1.0, 2 ** (i if signed else i + 1) + 1)
    middles = 10.0 ** (i - 6) * (borders[:-1] + borders[1:]) / 2
    shares += [*middles, *(-middles if signed else ())]
  return np.array(sorted(shares), np.float32)


_CODES = np.arange(256, dtype=np.uint8)
_encode_unsigned = jax.jit(adam8bit.encode_unsigned)
_SIDES = (
  (jax.jit(adam8bit.encode_signed), jax.jit(adam8bit.decode_signed), _published_map(True)),
  (_encode_unsigned, jax.jit(adam8bit.decode_unsigned), _published_map(False)),
)


def test_the_codes_are_the_published_ones_and_come_back():
  for encode, decode, table in _SIDES:
    assert len(table) == 256
    np.testing.assert_allclose(decode(_CODES), table, rtol=3e-7, atol=0)
    np.testing.assert_array_equal(encode(decode(_CODES)), _CODES)


def test_every_number_gets_the_nearest_code():
  rng = np.random.default_rng(0)
  shares = np.concatenate([10.0 ** rng.uniform(-8, 0, 20_000), np.linspace(0, 1, 20_001)])
  shares = shares.astype(np.float32)
  for (encode, decode, table), x in zip(_SIDES, (np.r_[-shares, shares], shares), strict=True):
    middles = (table[1:] + table[:-1]) / 2
    nearest = table[np.searchsorted(middles, x)]
    if x is shares:
      nearest = np.where(x > 0, np.maximum(nearest, table[1]), nearest)
    found = np.asarray(decode(encode(x)))
    # Where two codes are equally far, rounding decides; those are as good.
    equally_far = np.abs(np.abs(found - x) - np.abs(nearest - x)) < 1e-6 * np.abs(x)
    close = np.isclose(found, nearest, rtol=1e-6, atol=0)
    assert (close | equally_far).all()
    assert close.mean() > 0.999


def test_a_second_moment_above_zero_is_never_stored_as_zero():
  assert _encode_unsigned(np.float32(1e-30)) == 1
  assert _encode_unsigned(np.float32(0.0)) == 0


def _losses(rule, steps=60, shape=(20, 300)):
  """The course of a badly scaled least-squares problem under a rule."""
  rng = np.random.default_rng(1)
  scale = np.exp(rng.normal(size=shape)).astype(np.float32)
  target = rng.normal(size=shape).astype(np.float32)

  @jax.jit
  def step(params, state):
    value, g = jax.value_and_grad(lambda p: jnp.mean(scale * (p["w"] - target) ** 2))(params)
    direction, state = rule.update(g, state)
    return {"w": params["w"] - 0.05 * direction["w"]}, state, value

  params = {"w": jnp.zeros(shape)}
  state, losses = rule.init(params), []
  for _ in range(steps):
    params, state, value = step(params, state)
    losses.append(float(value))
  return np.array(losses), state


def test_it_follows_adam():
  hyper = dict(b1=0.9, b2=0.999, eps=1e-8)
  ours, state = _losses(adam8bit.scale_by_adam8bit(**hyper))
  adam, _ = _losses(optax.scale_by_adam(**hyper))
  assert adam[-1] < 0.1 * adam[0]
  # Each moment is off by up to 1/128 of itself; the course stays within a few percent.
  np.testing.assert_allclose(ours, adam, rtol=0.05, atol=1e-3 * adam[0])
  assert state.mu["w"].dtype == state.nu["w"].dtype == np.uint8
  assert state.mu_scale["w"].shape == (20, 2)


def test_two_bytes_per_parameter_and_small_leaves_in_full():
  rule = adam8bit.scale_by_adam8bit(b1=0.9, b2=0.999, eps=1e-8)
  params = {"large": jnp.zeros((64, 512)), "small": jnp.zeros(4095)}
  state = jax.eval_shape(rule.init, params)
  large = [state.mu, state.nu, state.mu_scale, state.nu_scale]
  num_bytes = sum(part["large"].size * part["large"].dtype.itemsize for part in large)
  assert num_bytes / (64 * 512) < 2.04
  assert state.mu["small"].dtype == state.nu["small"].dtype == np.float32
  assert "small" not in state.mu_scale


def test_a_small_leaf_has_exactly_adams_direction():
  hyper = dict(b1=0.9, b2=0.99, eps=1e-8)
  ours, _ = _losses(adam8bit.scale_by_adam8bit(**hyper), shape=(3, 50))
  adam, _ = _losses(optax.scale_by_adam(**hyper), shape=(3, 50))
  np.testing.assert_allclose(ours, adam, rtol=1e-5, atol=0)
