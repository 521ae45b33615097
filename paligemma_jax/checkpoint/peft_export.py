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

from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_export
from paligemma_jax.checkpoint import npz_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.models import param_table

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
  *,
  rank: int,
  alpha: float,
  rslora: bool,
  dora: bool,
  dropout: float,
  trained: Mapping[str, np.ndarray] | None = None,
  base: str = "",
  revision: str = "",
  remarks: str = "",
) -> pathlib.Path:
  """Writes the directory `path`, which must not exist; it appears complete or not at all.

  Args:
    adapters: {published name of a matrix: {"lora_a": …, "lora_b": …, and for DoRA
      "lora_magnitude": …}}, each with the matrix's stack in front.
    sizes: of the model, as in `params.sizes_of`.
    rank, alpha, rslora, dora, dropout: that they were trained with.
    trained: {published name: array} of all of the modules of which something else trained, see
      `modules_of`.
    base: what they are adapters of: a directory of transformers or an id of the hub; '': unknown.
    revision: of the hub's id.
    remarks: sentences for README.md.

  Raises:
    CheckpointError: `path` exists or cannot be written, there are no adapters, or a module has an
      adapter and trained itself, too.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise errors.CheckpointError(f"{path}: exists; remove it or save to another name.")
  if not adapters:
    raise errors.CheckpointError(f"{path}: there are no adapters to save: the run has none.")
  param_table.only_published({*(trained or {}), *adapters}, str(path))
  table = param_table.rows(sizes)
  tensors: dict[str, np.ndarray] = {}
  modules: set[str] = set()
  for name, parts in adapters.items():
    theirs = [_module(their) for their in table[name].hf]
    modules.update(theirs)
    for part, suffix in _PARTS.items():
      if part in parts:
        for module, array in _modules(theirs, part, parts[part]):
          tensors[f"{module}.{suffix}"] = array
  saved: set[str] = set()
  for name, array in (trained or {}).items():
    if twice := {_module(their) for their in table[name].hf} & modules:
      raise errors.CheckpointError(
        f"{path}: {name} trained although its module {min(twice)} has an adapter; PEFT's format"
        " cannot hold both. Export the merged model, with --format hf."
      )
    for their, piece in _whole(name, array, sizes):
      tensors[their] = piece
      saved.add(their.rpartition(".")[0])
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
    "r": rank,
    "lora_alpha": alpha,
    "lora_dropout": dropout,
    "use_rslora": rslora,
    "use_dora": dora,
    "bias": "none",
    "fan_in_fan_out": False,
    "target_modules": "|".join(_regex(module) for module in sorted(modules)),
    "modules_to_save": sorted(_ending(module) for module in saved) or None,
  }
  tensors = {PREFIX + key: x for name, x in tensors.items() for key in _spellings(name)}
  with npz_export.new_folder(path) as folder:
    safetensors.write(
      folder / TENSORS,
      {n: (reader.Entry(x.shape, x.dtype), [x]) for n, x in sorted(tensors.items())},
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


def _spellings(name: str) -> list[str]:
  """The names of a tensor in all versions."""
  old = name.replace(_VISION, _OLD_VISION, 1) if name.startswith(_VISION) else name
  return [*dict.fromkeys((name, old))]


def _regex(module: str) -> str:
  """Matches the module of every layer, in every version."""
  regex = r"\d+".join(re.escape(part) for part in module.split("{i}"))
  return regex.replace(re.escape(_VISION), re.escape(_VISION) + r"(?:vision_model\.)?", 1)


def _ending(module: str) -> str:
  """The end of a module's name that is the same in all versions and no other module's."""
  return module.removeprefix(_VISION).removeprefix("model.")


def _whole(
  name: str, array: np.ndarray, sizes: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """(their name, float32 tensor) of a parameter, and of the head tied to the embedding table."""
  row = param_table.rows(sizes)[name]
  dims = param_table.dims_of(sizes)
  array = np.asarray(array, np.float32)
  if name == param_table.INPUT_EMBEDDING:
    rows = hf.num_rows(dims["V"], hf_export.default_image_token(dims["V"]))
    spare = np.repeat(array.mean(axis=0, keepdims=True), rows - len(array), axis=0)
    array = np.concatenate([array, spare])
    dims["V"] = rows
    yield f"{_HEAD}.weight", array
  layered = "{i}" in row.hf[0]
  for i, layer in enumerate(array if layered else array[None]):
    for part, their in zip(layer if len(row.hf) > 1 else layer[None], row.hf, strict=True):
      whole = param_table.to_theirs(part, row.layout, dims)
      yield _in_memory(their.format(i=i)), np.ascontiguousarray(whole)


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
