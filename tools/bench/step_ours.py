"""Our side of step.py: the run's own step, made from a configuration as the train command does."""

from __future__ import annotations

import argparse
import dataclasses

import jax
import jaxlib
import ml_collections

from paligemma_jax import presets
from paligemma_jax.config import load as configs
from paligemma_jax.core import process
from paligemma_jax.planning import program
from paligemma_jax.trainer import devices
from paligemma_jax.trainer import setup as setups
from paligemma_jax.training import loss
from paligemma_jax.training import sharding
from tools.bench import models
from tools.bench import side
from tools.bench import step

_TOTAL = 1000  # Steps of a schedule that is constant.


def config_of(args: argparse.Namespace) -> ml_collections.ConfigDict:
  """The configuration of the run that is measured."""
  sizes = models.MODELS[args.model]
  config = configs.default_config()
  config.model.update(
    variant="tiny", res=sizes.res, dtype=args.dtype, remat=args.remat, attention=args.attention
  )
  config.model.overrides = {
    tower: dataclasses.asdict(getattr(sizes, tower)) for tower in ("img", "llm")
  }
  config.init = args.weights
  config.train.update(text_len=args.text_len, batch_size=args.batch_size)
  presets.apply(config, args.tune)
  config.optim.update(lr=args.lr, schedule="constant", warmup="")
  return config


def prepare():
  """Loads and compiles; the task is one step, from a batch on the host to the loss on the host."""
  args = step.parser().parse_args()
  devices.start(alone=True)
  setup = setups.lay_out(config_of(args))
  optimizer = setups.optimizer(setup, _TOTAL, args.batch_size)
  batch = step.batch(args)
  num_supervised = loss.num_supervised(batch["mask_loss"])
  state = setups.initial_state(setup, optimizer, print)
  train_step = setups.train_step(setup, optimizer, state)
  bare = setups.train_step(setups.without_recomputation(setup), optimizer, state)
  on_device = sharding.put(batch, setup.mesh)
  needed = program.matmul_flops(bare.trace(state, on_device, num_supervised).jaxpr)

  def task():
    nonlocal state
    on_device = sharding.put(batch, setup.mesh)
    state, sums = train_step(state, on_device, num_supervised)
    jax.block_until_ready(state)
    return float(sums["loss"])

  facts = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "jaxlib": jaxlib.__version__,
    "parameters": sum(x.size for x in state.params.values()),
    "trained": sum(x.size for x in state.trainable.values()),
    "flops_needed": needed,
  }
  return facts, task


if __name__ == "__main__":
  process.use_huge_pages()
  side.serve(prepare, gpu_peak=side.jax_peak)
