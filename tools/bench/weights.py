"""Random weights of the models that are measured; both sides of a comparison read them.

python -m tools.bench.weights 3b FOLDER     writes bfloat16 to FOLDER/params.npz
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys

import numpy as np

from paligemma_jax.checkpoint import export
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from tools.bench import models

# Larger arrays repeat so many random numbers, a prime: billions of fresh ones would take a minute.
_FRESH = 16_777_213


def write(
  model: str, folder: pathlib.Path, dtype: str = "float32", *, name: str = ""
) -> pathlib.Path:
  """Writes random weights as a Hugging Face directory, which both sides read."""
  sizes = sizes_of(models.MODELS[model])
  return export.save_hf(folder / (name or model), _params(sizes), sizes, dtype=dtype)


def _params(sizes: dict) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  scale = 0.05 if sizes["llm"]["width"] < 1024 else 0.02  # The sums of wide matrices are longer.
  return {n: _random(rng, n, shape, scale) for n, shape in param_table.shapes(sizes).items()}


def sizes_of(model_config: variants.ModelConfig) -> dict:
  """The sizes as `models.param_table` has them."""
  return {
    "img": dataclasses.asdict(model_config.img),
    "llm": dataclasses.asdict(model_config.llm),
    "res": model_config.res,
  }


def _random(
  rng: np.random.Generator, name: str, shape: tuple[int, ...], scale: float
) -> np.ndarray:
  """Scaled so that activations neither die nor explode, and the answers depend on the input."""
  if name.endswith(("scale", "bias")):
    one = name.startswith("img") and name.endswith("scale")
    return np.full(shape, float(one), np.float32)
  if name in (param_table.INPUT_EMBEDDING, param_table.POS_EMBEDDING):
    scale = shape[-1] ** -0.5
  num = math.prod(shape)
  x = rng.standard_normal(min(num, _FRESH), np.float32) * np.float32(scale)
  return (x if len(x) == num else np.resize(x, num)).reshape(shape)


if __name__ == "__main__":
  _sizes = sizes_of(models.MODELS[sys.argv[1]])
  _path = pathlib.Path(sys.argv[2]) / "params.npz"
  export.save_npz(_path, _params(_sizes), sizes=_sizes, dtype="bfloat16")
