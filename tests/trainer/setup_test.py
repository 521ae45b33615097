"""From a configuration to the state of a run."""

import jax
import jax.numpy as jnp

from paligemma_jax.config import load as configs
from paligemma_jax.trainer import setup as setups


def test_frozen_parameters_are_in_the_compute_dtype_also_when_it_is_chosen_by_device():
  config = configs.default_config()
  config.model.update(variant="tiny", res=28, dtype="auto", overrides={"llm": {"vocab_size": 64}})
  config.optim.update(lr=1e-3, freeze=("img/.*",))
  setup = setups.lay_out(config)
  optimizer = setups.optimizer(setup, 10, 8)
  state = setups.abstract_state(setup, optimizer)
  assert jax.default_backend() == "cpu"
  assert {leaf.dtype for leaf in state.frozen.values()} == {jnp.dtype("float32")}
  assert all(name.startswith("img/") for name in state.frozen)
  config.model.dtype = "bfloat16"
  state = setups.abstract_state(setups.lay_out(config), optimizer)
  assert {leaf.dtype for leaf in state.frozen.values()} == {jnp.dtype("bfloat16")}
  assert {leaf.dtype for leaf in state.trainable.values()} == {jnp.dtype("float32")}
