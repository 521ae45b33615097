"""The state lies in memory that a step can write over."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.checkpoint import load
from paligemma_jax.training import state as states
from tests.training import toy_state


def _in_numpy(shape):
  """An array that lies where NumPy put its numbers, as those do that are read from files."""
  values = load._aligned(shape, np.dtype(np.float32))
  values[:] = np.random.default_rng(0).normal(size=shape)
  return values, jax.device_put(values)


def _is_taken_over(x):
  place = x.unsafe_buffer_pointer()
  return jax.jit(lambda x: x + 1, donate_argnums=0)(x).unsafe_buffer_pointer() == place


def test_arrays_from_files_are_taken_over_by_the_first_step():
  values, array = _in_numpy((64, 512))
  if array.unsafe_buffer_pointer() != values.ctypes.data:
    pytest.skip("JAX copies here.")
  assert not _is_taken_over(_in_numpy((64, 512))[1])
  state = toy_state.make()
  name = next(iter(state.trainable))
  sharding = state.trainable[name].sharding
  given = dataclasses.replace(state, trainable={name: jax.device_put(array, sharding)})
  owned = states.owned(given)
  assert given.trainable[name].is_deleted()
  assert owned.trainable[name].sharding == sharding
  np.testing.assert_array_equal(owned.trainable[name], values)
  assert _is_taken_over(owned.trainable[name])


def test_nothing_else_changes():
  want = jax.tree.map(np.array, toy_state.make())
  got = states.owned(toy_state.make())
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_the_look_at_a_state_is_not_compiled_again_when_it_was_before():
  def make():
    params = {name: jnp.ones(size) for name, size in (("a", 1237), ("b", 1249))}
    return states.TrainState(jnp.int32(1), params, {}, {"mu": dict(params)})

  donated, kept, compiled = make(), make(), []
  jax.tree.map(lambda leaf: leaf.delete(), donated)
  jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
  states.compile_finite_check(donated)
  assert any("backend_compile" in name for name in compiled)
  compiled.clear()
  assert states.first_non_finite(kept) == ""
  assert not any("backend_compile" in name for name in compiled)
