"""Adapters out, as a directory that Hugging Face PEFT opens over transformers' PaliGemma.

Module names are those of transformers 4.52 and later. The vision tower lost one part of its names
in transformers 5.4, so its tensors are stored under both; whichever is not there is passed over.
What trained beside the adapters is stored whole, as PEFT's `modules_to_save`.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.models import param_table
from paligemma_jax.models import variants

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_PARTS = {
  "lora_a": "lora_A.weight",
  "lora_b": "lora_B.weight",
  "lora_magnitude": "lora_magnitude_vector",
}
_OLD_VISION, _VISION = "model.vision_tower.vision_model.", "model.vision_tower."
_HEAD = "lm_head"


def save_peft(
  path: str | os.PathLike,
  adapters: Mapping[str, Mapping[str, np.ndarray]],
  sizes: Mapping[str, Any],
  spec: variants.Lora,
  *,
  trained: Mapping[str, np.ndarray] | None = None,
  base: str = "",
  revision: str = "",
  remarks: str = "",
) -> pathlib.Path:
  """Writes the directory `path`, which must not exist; it appears complete or not at all.

  Args:
    adapters: {published name of a matrix: {"lora_a": …, "lora_b": …, and for DoRA
      "lora_magnitude": …}}, each with the matrix's stack in front.
    sizes: of the model, as in `param_table.sizes_of`.
    spec: of the adapters.
    trained: {published name: array} of all of the modules of which something else trained, see
      `modules_of`.
    base: what they are adapters of: a directory of transformers or an id of the hub; '': unknown.
    revision: of the hub's id.
    remarks: sentences for README.md.

  Raises:
    CheckpointError: `path` exists or cannot be written, there are no adapters, or a module has an
      adapter and trained itself, too.
  """
  path, trained = bucket.path(path), trained or {}
  if not adapters:
    raise errors.CheckpointError(f"{path}: there are no adapters to save: the run has none.")
  param_table.only_published({*trained, *adapters}, str(path))
  table = param_table.rows(sizes)
  tensors: dict[str, np.ndarray] = {}
  for name, parts in adapters.items():
    for part, array in parts.items():
      for their, index in hf.places(table[name], len(array)):
        tensors[f"{_module(their)}.{_PARTS[part]}"] = _in_torch(part, array[index])
  modules = {_module(their) for name in adapters for their in table[name].hf}
  saved: set[str] = set()
  for name, array in trained.items():
    if twice := {_module(their) for their in table[name].hf} & modules:
      raise errors.CheckpointError(
        f"{path}: {name} trained although its module {min(twice)} has an adapter; PEFT's format"
        " cannot hold both. Export the merged model, with --format hf."
      )
    own = dict(_whole(table[name], array, sizes))
    tensors |= own
    for their in own:  # By the end of a name, which is the same in all versions and no other's.
      saved.add(their.rpartition(".")[0].removeprefix(_VISION).removeprefix("model."))
  config = {
    "peft_type": "LORA",
    # A task would keep AutoPeftModel from opening it; the class of the base says more.
    "task_type": None,
    "auto_mapping": {
      "base_model_class": "PaliGemmaForConditionalGeneration",
      "parent_library": "transformers.models.paligemma.modeling_paligemma",
    },
    "base_model_name_or_path": base or None,
    "revision": revision or None,
    "inference_mode": True,
    "r": spec.rank,
    "lora_alpha": spec.alpha,
    "lora_dropout": spec.dropout,
    "use_rslora": spec.rslora,
    "use_dora": spec.dora,
    "bias": "none",
    "fan_in_fan_out": False,
    "target_modules": "|".join(_regex(module) for module in sorted(modules)),
    "modules_to_save": sorted(saved) or None,
  }
  for name in [name for name in tensors if name.startswith(_VISION)]:
    tensors[name.replace(_VISION, _OLD_VISION, 1)] = tensors[name]
  with export.replacing(path, folder=True) as folder:
    export.write_safetensors(
      folder / TENSORS,
      {PREFIX + n: (reader.Entry(x.shape, x.dtype), [x]) for n, x in sorted(tensors.items())},
    )
    atomic_io.write_new(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    atomic_io.write_new(folder / "README.md", _card(base, remarks))
  return path


def modules_of(trained: set[str], sizes: Mapping[str, Any]) -> set[str]:
  """The published names of all that lies in the modules in which one of `trained` lies."""
  table = param_table.rows(sizes)
  modules = {n: {their.rpartition(".")[0] for their in row.hf} for n, row in table.items()}
  touched = set().union(*(modules[name] for name in trained)) if trained else set()
  return {name for name, own in modules.items() if own & touched}


def _module(their: str) -> str:
  """The module's name in transformers, with {i} for the layer."""
  return _in_memory(their).rpartition(".")[0]


def _in_memory(their: str) -> str:
  """A canonical name as transformers 5.4 and later call it."""
  name = their.replace("language_model.model.", "language_model.", 1)
  return "model." + name.replace("vision_tower.vision_model.", "vision_tower.", 1)


def _regex(module: str) -> str:
  """Matches the module of every layer, in every version."""
  regex = r"\d+".join(re.escape(part) for part in module.split("{i}"))
  return regex.replace(re.escape(_VISION), re.escape(_VISION) + r"(?:vision_model\.)?", 1)


def _whole(
  row: param_table.Param, array: np.ndarray, sizes: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """(their name, float32 tensor) of a parameter, and of the head tied to the embedding table."""
  dims = param_table.dims_of(sizes)
  array = np.asarray(array, np.float32)
  if row.name == param_table.INPUT_EMBEDDING:
    dims["V"] = hf_config.num_rows(dims["V"], hf_config.default_image_token(dims["V"]))
    spare = np.repeat(array.mean(axis=0, keepdims=True), dims["V"] - len(array), axis=0)
    array = np.concatenate([array, spare])
    yield f"{_HEAD}.weight", array
  for their, index in hf.places(row, len(array)):
    whole = param_table.to_theirs(array[index], row.layout, dims)
    yield _in_memory(their), np.ascontiguousarray(whole)


def _card(base: str, remarks: str) -> str:
  head = f"base_model: {base}\n" if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else ""
  return f"""---
library_name: peft
{head}---
# Adapters of a PaliGemma

Written by paligemma_jax. {remarks}

```python
from peft import AutoPeftModel

model = AutoPeftModel.from_pretrained(".")  # This folder.
```
"""


def _in_torch(part: str, ours: np.ndarray) -> np.ndarray:
  """One part of the adapter of one matrix, in torch's layout."""
  shapes = {"lora_a": (-1, ours.shape[-1]), "lora_b": (len(ours), -1), "lora_magnitude": (-1,)}
  return np.ascontiguousarray(ours.astype(np.float32).reshape(shapes[part]).T)
