"""Random weights of the models that are measured; both sides of a comparison read them."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from paligemma_jax.models import variants
from paligemma_jax.weights import hf_export
from paligemma_jax.weights import names
from tools.bench import models


def write(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes random float32 weights as a Hugging Face directory, which both sides read."""
  sizes = sizes_of(models.MODELS[name])
  rng = np.random.default_rng(0)
  params = {n: _random(rng, n, shape) for n, shape in names.shapes(sizes).items()}
  return hf_export.save_hf(folder / name, params, sizes)


def sizes_of(cfg: variants.ModelConfig) -> dict:
  """The sizes as `weights.names` has them."""
  return {"img": dataclasses.asdict(cfg.img), "llm": dataclasses.asdict(cfg.llm), "res": cfg.res}


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Scaled so that activations neither die nor explode, and the answers depend on the input."""
  if name.endswith(("scale", "bias")):
    one = name.startswith("img") and name.endswith("scale")
    return np.full(shape, float(one), np.float32)
  x = rng.standard_normal(shape, np.float32)
  if name in (names.INPUT_EMBEDDING, names.POS_EMBEDDING):
    return x * np.float32(shape[-1] ** -0.5)
  return x * np.float32(0.05)
