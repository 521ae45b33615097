"""Our side of load.py."""

from __future__ import annotations

import jax
import numpy as np

from paligemma_jax import api
from tools.bench import checkpoint_side
from tools.bench import load


def main() -> None:
  """Loads and saves as told."""
  args = load.parser().parse_args()
  checkpoint_side.serve(
    args,
    {"jax": jax.__version__},
    load=lambda: api.load(args.weights, dtype="float32"),
    arrays=lambda model: map(np.asarray, model.params.values()),
    save=lambda model, path: model.save(path, format="hf"),
  )


if __name__ == "__main__":
  main()
