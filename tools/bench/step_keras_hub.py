"""keras-hub's side of step.py: PaliGemmaCausalLM on the JAX backend, trained by `fit`."""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np

from tools.bench import keras_hub_models
from tools.bench import side
from tools.bench import step

# isort: split
import keras
import keras_hub


def prepare():
  """Loads; the task is one step, from pixels on the host to the loss and new parameters."""
  args = step.parser().parse_args()
  with tempfile.TemporaryDirectory() as folder:
    backbone = keras_hub_models.load(args.weights, pathlib.Path(folder))
  model = keras_hub.models.PaliGemmaCausalLM(preprocessor=None, backbone=backbone)
  model.compile(
    optimizer=keras.optimizers.Adam(
      args.lr, beta_1=0.9, beta_2=0.999, epsilon=1e-8, global_clipnorm=1.0
    ),
    # The default divides by all positions, supervised or not.
    loss=keras.losses.SparseCategoricalCrossentropy(
      from_logits=True, reduction="mean_with_sample_weight"
    ),
  )
  batch = step.batch(args)
  text, answer = batch["text"], batch["mask_ar"]
  fed = {
    "token_ids": text[:, :-1],
    "response_mask": answer[:, :-1],
    "padding_mask": np.ones_like(text[:, :-1]),
  }

  def task():
    pixels = batch["image"].astype(np.float32) / 127.5 - 1
    history = model.fit(
      {"images": pixels, **fed},
      text[:, 1:],
      sample_weight=batch["mask_loss"][:, 1:],
      batch_size=args.batch_size,
      shuffle=False,
      verbose=0,
    )
    return float(history.history["loss"][0])

  return {**keras_hub_models.versions(), "parameters": model.count_params()}, task


if __name__ == "__main__":
  side.serve(prepare)
