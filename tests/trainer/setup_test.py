"""From a configuration to the state of a run."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_hosts_run_the_program_of_the_longest_and_of_the_fullest_of_their_batches():
  class Team:
    def gather(self, what, value, *, key):
      assert what == "the sizes of a batch"
      keys.append(key)
      return [value, [25, 8]]

  keys = []
  stepper = setups.Stepper.__new__(setups.Stepper)
  stepper._step, stepper._team = 3, Team()
  batch = {"text": np.ones((2, 17), np.int32), "image": np.zeros((2, 4, 4, 3), np.uint8)}
  for _ in range(2):
    agreed, num_supervised = stepper._agreed(batch, 16)
    assert agreed["text"].shape == (2, 25) and num_supervised == 16
    assert not agreed["text"][:, 17:].any() and agreed["image"] is batch["image"]
  assert keys == ["batch of step 4", "batch of step 5"]
