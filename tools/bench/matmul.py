"""A side that multiplies large float32 matrices, as fast as this machine's libraries can."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import side

_SIZE = 3072


def prepare():
  """The task is one product by the faster of NumPy's library and XLA."""
  x = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), np.float32)
  on_device = jnp.asarray(x)
  product = jax.jit(jnp.matmul)
  ways = {
      "numpy": lambda: x @ x,
      "xla": lambda: product(on_device, on_device).block_until_ready(),
  }
  seconds = {name: side.best_cpu_seconds(way) for name, way in ways.items()}
  best = min(seconds, key=seconds.get)

  def task():
    ways[best]()

  return {"flops": 2 * _SIZE**3, "by": best}, task


if __name__ == "__main__":
  side.serve(prepare)
