"""Checkpoints of the small training state: opened, and with some steps saved."""

from paligemma_jax.checkpoint import store
from tests.training import toy_state

FILES = {"config.json": b'{"seed": 0}', "tokenizer.model": b"pieces"}


def opened(folder, **options):
  defaults = dict(keep=2, best_mode="max", async_save=True, files=FILES)
  return store.Checkpoints(folder, **{**defaults, **options})


def saved(folder, num_steps, **options):
  """(open checkpoints, states saved at steps 1..num_steps)."""
  found, state, history = opened(folder, **options), toy_state.make(), []
  for _ in range(num_steps):
    state = toy_state.advance(state)
    found.save(state)
    history.append(state)
  found.wait()
  return found, history
