"""A small training state with every kind of leaf, made without a model."""

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states
from tests.training.optim_section import optim


class _Mesh:
  shape = ()


def mesh(devices=None):
  """All devices (default: the first) on one fsdp axis."""
  return sharding.make_mesh(_Mesh(), devices=devices or jax.devices()[:1])


def params():
  """name -> float32 array; img is frozen in `make`, one leaf is large enough to be cut."""
  rng = np.random.default_rng(0)
  shapes = {
    "img/head/kernel": (6, 8),
    "img/head/bias": (8,),
    "llm/embedder/input_embedding": (2048, 8),
    "llm/layers/mlp/linear": (2, 64, 128),
    "llm/final_norm/scale": (8,),
  }
  return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def optimizer(**changes):
  """(Adam with a frozen img tower, trainable names)."""
  section = optim(lr=1e-2, freeze=("img/.*",), **changes)
  trainable, _ = optimizers.split(params(), section)
  shapes = {n: params()[n] for n in trainable}
  return optimizers.make(section, shapes, 100, names=params(), batch_size=1), trainable


def make(where=None, **changes):
  """The state at step 0."""
  made, trainable = optimizer(**changes)
  return states.make(params(), trainable, made, where or mesh(), dtype=jnp.bfloat16)


def target(where=None, **changes):
  """The abstract state that `make` is an instance of."""
  made, trainable = optimizer(**changes)
  return states.abstract(params(), trainable, made, where or mesh(), dtype=jnp.bfloat16)


def advance(state, num=1, **changes):
  """The state `num` steps on, by gradients made from the step number."""
  made, _ = optimizer(**changes)

  @jax.jit
  def step(state):
    gradients = {n: (jnp.sin(p + state.step),) for n, p in state.trainable.items()}
    moved, opt_state = made.apply(gradients, state.opt_state, state.trainable, state.step, True)
    ema = optimizers.averaged(made.ema, state.ema, moved, state.step)
    return states.TrainState(state.step + 1, moved, state.frozen, opt_state, ema)

  for _ in range(num):
    state = step(state)
  return state


def assert_equal(got, want):
  """Equality in bits, dtypes included."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
