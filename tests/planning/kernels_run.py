"""Compiles the small step, with kernels, for TPU chips that are not there; prints their number."""

import json
import sys

from paligemma_jax.planning import program
from paligemma_jax.planning import targets
from paligemma_jax.trainer import setup as setups
from tests.planning import small


def main(on, axes):
  """`axes` as in mesh.shape."""
  config = small.config()
  config.model.update(dtype="bfloat16", attention="flash")
  config.mesh.shape = axes
  devices, *_ = program._devices(targets.get(on))
  setup = setups.lay_out(config, devices)
  optimizer = setups.optimizer(setup, 10, config.train.batch_size)
  state = setups.abstract_state(setup, optimizer)
  step = setups.train_step(setup, optimizer, state)
  traced = step.trace(state, program._batch(setup, 0), config.train.text_len)
  print(traced.lower().compile().as_text().count("tpu_custom_call"))


if __name__ == "__main__":
  main(sys.argv[1], tuple((name, int(size)) for name, size in json.loads(sys.argv[2])))
