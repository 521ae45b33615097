"""keras-hub's side of load.py."""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np

from tools.bench import checkpoint_side
from tools.bench import keras_hub_models
from tools.bench import load


def main() -> None:
  """Loads and saves as told."""
  args = load.parser().parse_args()

  def read():
    with tempfile.TemporaryDirectory() as folder:
      return keras_hub_models.load(args.weights, pathlib.Path(folder))

  checkpoint_side.serve(
    args,
    keras_hub_models.versions(),
    load=read,
    arrays=lambda model: (np.asarray(v.value) for v in model.trainable_variables),
    save=lambda model, path: model.save_to_preset(str(path)),
  )


if __name__ == "__main__":
  main()
