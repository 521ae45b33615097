"""A real model, a few rows, real evaluators; as a program it prints the metrics as JSON.

python -m tests.trainer.evaluation_run [PORT NUM_PROCESSES INDEX]
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax import evals
from paligemma_jax import sources
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.trainer import evaluation
from paligemma_jax.trainer import setup as setups
from paligemma_jax.training import sharding

RES = 28
NUM_ROWS = (1, 5, 16, 17)
SIZES = {
  "img": dict(width=16, depth=1, mlp_dim=16, num_heads=2),
  "llm": dict(width=16, depth=1, mlp_dim=16, num_heads=2, head_dim=8),
}


@spec.spec
class Paint:
  """An image of one grey; a negative one is a bad row."""

  def needs(self):
    return ("grey",)

  def makes(self):
    return ("image",)

  def __call__(self, row, rng):
    if row["grey"] < 0:
      raise errors.DataError("no such grey")
    return {**row, "image": np.full((RES, RES, 3), row["grey"], np.uint8)}


def source(num_rows):
  words = ("cat", "a red dog", "two fish", "")
  rows = tuple(
    dict(grey=7 * i % 256, prefix=f"what is {i}?", suffix=words[i % 4], id=f"r{i}")
    for i in range(num_rows)
  )
  return sources.InMemory(rows)


def setup(*evaluators):
  """A Setup of a model of 2 k numbers."""
  config = configs.default_config()
  config.evals = evaluators
  config.train.buckets = (8, 12, 16, 24)  # Processes' own rows need different ones.
  model_config = variants.get("tiny", res=RES, dtype="float32", overrides=SIZES)
  shapes = paligemma.param_shapes(model_config)
  mesh = sharding.make_mesh(config.mesh)
  return setups.Setup(config, model_config, mesh, shapes, tuple(shapes), ())


def random_params(made):
  """Numbers of size 0.3, so that rows differ; made without JAX, whose compiler would take 10 s."""
  rng = np.random.default_rng(0)
  places = sharding.param_shardings(made.shapes, made.mesh)
  values = {n: rng.normal(0, 0.3, s.shape).astype(np.float32) for n, s in made.shapes.items()}
  return {
    name: jax.make_array_from_callback(x.shape, places[name], lambda index, x=x: x[index])
    for name, x in values.items()
  }


def zero_params(made):
  """All tokens are equally probable."""
  return {name: jnp.zeros(s.shape, jnp.float32) for name, s in made.shapes.items()}


def main():
  if len(sys.argv) > 1:
    port, count, index = map(int, sys.argv[1:])
    jax.distributed.initialize(f"localhost:{port}", count, index)
  evaluators = []
  for n in NUM_ROWS:
    rows = source(n)
    evaluators += [
      evals.Perplexity(f"loss {n}", rows, (Paint(),), batch_size=4),
      evals.WritePredictions(f"pred {n}", rows, (Paint(),), batch_size=6, max_len=5, keep=("id",)),
    ]
  made = setup(*evaluators)
  results = evaluation.Runner(made, None).run(random_params(made), 1)
  orders = [[row["id"] for row in results[f"pred {n}"].rows] for n in NUM_ROWS]
  tokens = [[output.tokens for output in results[f"pred {n}"].outputs] for n in NUM_ROWS]
  print("RESULT " + json.dumps([evaluation.merged(results), orders, tokens]))


if __name__ == "__main__":
  main()
