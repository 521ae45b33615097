"""A side that multiplies large matrices, as fast as this machine's libraries can."""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import compare
from tools.bench import side

_SIZES = {"cpu": 3072, "gpu": 8192}


def prepare():
  """The task is one product by the faster of NumPy's library and XLA, on a GPU by XLA."""
  parser = argparse.ArgumentParser(description=__doc__)
  compare.add_device(parser)
  args = parser.parse_args()
  size = _SIZES[args.device]
  x = np.random.default_rng(0).standard_normal((size, size), np.float32)
  on_device = jnp.asarray(x, args.dtype)
  product = jax.jit(jnp.matmul)
  ways = {
    "numpy": lambda: x @ x,
    "xla": lambda: product(on_device, on_device).block_until_ready(),
  }
  if args.device == "gpu" or args.dtype != "float32":  # NumPy knows neither.
    best = "xla"
  else:
    seconds = {name: side.best_cpu_seconds(way) for name, way in ways.items()}
    best = min(seconds, key=seconds.get)

  def task():
    ways[best]()

  return {"flops": 2 * size**3, "by": best}, task


if __name__ == "__main__":
  side.serve(prepare)
