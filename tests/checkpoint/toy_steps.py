"""Checkpoints of the small training state: opened, and with some steps saved."""

from paligemma_jax.checkpoint import store
from tests.training import toy_state

FILES = {"config.json": b'{"seed": 0}', "tokenizer.model": b"pieces"}


def opened(folder, **options):
  defaults = dict(keep=2, best_mode="max", async_save=True, files=FILES)
  return store.Checkpoints(folder, **{**defaults, **options})


def assert_next_save_works(opened, last, failed):
  """After a failed save of the state `failed`, of step 2: `last` is restored, step 3 is saved."""
  toy_state.assert_equal(opened.restore(toy_state.target()), last)
  opened.save(toy_state.advance(failed))
  opened.wait()
  assert opened.steps() == [1, 3]
  opened.close()


def saved(folder, num_steps, **options):
  """(open checkpoints, states saved at steps 1..num_steps)."""
  found, state, history = opened(folder, **options), toy_state.make(), []
  for _ in range(num_steps):
    state = toy_state.advance(state)
    found.save(state)
    history.append(state)
  found.wait()
  return found, history
