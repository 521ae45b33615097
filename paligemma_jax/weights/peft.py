"""Adapters out, as a directory that Hugging Face PEFT opens over transformers' PaliGemma.

Module names are those of transformers 5; the decoder's have been the same since 4.52.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import disk
from paligemma_jax.core import errors
from paligemma_jax.weights import hf_names
from paligemma_jax.weights import reader
from paligemma_jax.weights import safetensors

_PARTS = {
    "lora_a": "lora_A.weight",
    "lora_b": "lora_B.weight",
    "lora_magnitude": "lora_magnitude_vector",
}


def save_peft(
    path: str | os.PathLike,
    adapters: Mapping[str, Mapping[str, np.ndarray]],
    sizes: Mapping[str, Any],
    *,
    rank: int,
    alpha: float,
    rslora: bool,
    dora: bool,
    dropout: float,
) -> pathlib.Path:
  """Writes adapter_config.json and adapter_model.safetensors into the new directory `path`.

  Args:
    adapters: {published name of a matrix: {"lora_a": …, "lora_b": …, and for DoRA
      "lora_magnitude": …}}, each with the matrix's stack in front.
    sizes: of the model, as in `names.sizes_of`.
    rank, alpha, rslora, dora, dropout: that they were trained with.

  Raises:
    CheckpointError: `path` exists or cannot be written, or there are no adapters.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise errors.CheckpointError(f"{path}: exists; remove it or save to another name.")
  if not adapters:
    raise errors.CheckpointError(f"{path}: there are no adapters to save: the run has none.")
  llm = sizes["llm"]
  table = hf_names.table(
      fused=llm["num_heads"] == llm["num_kv_heads"], post_norms=llm["post_norms"]
  )
  tensors: dict[str, np.ndarray] = {}
  modules: set[str] = set()
  for name, parts in adapters.items():
    theirs = [_module(their) for their in table[name][0]]
    modules.update(theirs)
    for part, suffix in _PARTS.items():
      if part in parts:
        for module, array in _modules(theirs, part, parts[part]):
          tensors[f"base_model.model.{module}.{suffix}"] = array
  config = {
      "peft_type": "LORA",
      "task_type": None,
      "base_model_name_or_path": None,
      "inference_mode": True,
      "r": rank,
      "lora_alpha": alpha,
      "lora_dropout": dropout,
      "use_rslora": rslora,
      "use_dora": dora,
      "bias": "none",
      "fan_in_fan_out": False,
      "target_modules": "|".join(_regex(module) for module in sorted(modules)),
  }
  try:
    path.mkdir(parents=True)
    safetensors.write(
        path / "adapter_model.safetensors",
        {n: (reader.Entry(x.shape, x.dtype), [x]) for n, x in sorted(tensors.items())},
    )
    disk.write_atomically(path / "adapter_config.json", json.dumps(config, indent=2) + "\n")
  except OSError as e:
    raise errors.CheckpointError(f"{path}: cannot be written: {e}.") from e
  return path


def _module(their: str) -> str:
  """The module's name in transformers, with {i} for the layer."""
  name = their.removesuffix(".weight")
  name = name.replace("language_model.model.", "language_model.", 1)
  name = name.replace("vision_tower.vision_model.", "vision_tower.", 1)
  return f"model.{name}"


def _regex(module: str) -> str:
  """Matches the module of every layer."""
  return r"\d+".join(re.escape(part) for part in module.split("{i}"))


def _modules(theirs: list[str], part: str, array: np.ndarray):
  """(module, its array in torch's layout) for every layer and every matrix of the stack."""
  layered = "{i}" in theirs[0]
  array = array.astype(np.float32)
  array = array if layered else array[None]
  for i in range(array.shape[0]):
    layer = array[i] if len(theirs) > 1 else array[i][None]
    for module, own in zip(theirs, layer, strict=True):
      if part == "lora_a":
        own = own.reshape(-1, own.shape[-1]).T
      elif part == "lora_b":
        own = own.reshape(own.shape[0], -1).T
      else:
        own = own.reshape(-1)
      yield module.format(i=i), np.ascontiguousarray(own)
