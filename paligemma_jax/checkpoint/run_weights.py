"""Reading a run's weights back: from a workdir, its checkpoints folder, or one step of it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from absl import logging

from paligemma_jax.checkpoint import arrays
from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import merge
from paligemma_jax.checkpoint import reader
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.models import params as param_table
from paligemma_jax.models import variants

CONFIG = "config.json"
TOKENIZER = "tokenizer.model"
_RESULTS = ("trainable/", "ema/")  # Averages, where a run keeps them, are what it gives.


@dataclasses.dataclass(frozen=True)
class Native:
  """An intact step of a run.

  weights: its parameters under the published names, adapters in their matrices, kind "run"; what
    checkpoint.load.load_params takes.
  tuned: its parameters as it trains them, with adapters and packed matrices, if there are any.
  config: the run's config as plain data (config.load.from_plain makes it a config).
  tokenizer: the SentencePiece file, or None when the run saved none.
  step: how many steps it had trained.
  trained: the names in `tuned` of what trained.
  """

  weights: reader.Weights
  tuned: reader.Weights
  config: Mapping[str, Any]
  tokenizer: pathlib.Path | None
  step: int
  trained: frozenset[str]


def is_run(path: str | os.PathLike) -> bool:
  """True for a workdir, a checkpoints folder, or a step folder of ours."""
  try:
    return bool(step_folders(pathlib.Path(path)))
  except OSError:
    return False


def step_folders(path: pathlib.Path) -> list[pathlib.Path]:
  """Step folders in `path`, newest first; `path` itself when it is one."""
  if (path / manifest.ARRAYS).is_dir() and path.name.isdecimal():
    return [path]
  for folder in (path / "checkpoints", path):
    if folder.is_dir() and (steps := manifest.steps_in(folder)):
      return [folder / str(step) for step in sorted(steps, reverse=True)]
  return []


def open_native(path: str | os.PathLike) -> Native:
  """Opens the newest intact step in `path`; all bytes are checked against the seal first.

  Args:
    path: a workdir, its `checkpoints/`, or one step in it (then that one, or an error).

  Raises:
    CheckpointError: no step there.
    StateError: steps, but none intact; names the newest one's bad file.
  """
  path = pathlib.Path(path).absolute()
  folders = step_folders(path)
  if not folders:
    raise errors.CheckpointError(
      f"{path}: no saved step here; give a workdir or checkpoints/<step>."
    )
  reasons = []
  for folder in folders:
    try:
      facts = manifest.verify_step(folder)
    except manifest.Broken as e:
      reasons.append(f"step {folder.name}: {e}")
      logging.error("skipped %s: %s", folder, e)
      continue
    return _open(folder, facts)
  raise errors.StateError(f"{path}: no intact step of {len(folders)}; {reasons[0]}.")


def _open(folder: pathlib.Path, facts: Mapping[str, Any]) -> Native:
  base = folder.parent / manifest.BASE
  places: dict[str, tuple[pathlib.Path, str]] = {}  # Published name -> (orbax folder, name there).
  entries: dict[str, reader.Entry] = {}
  tables = [(folder, prefix, facts["leaves"]) for prefix in _RESULTS]
  if facts["base"]:
    tables.append((base, "", manifest.read_facts(base)["leaves"]))
  for where, prefix, table in tables:
    found = _described(where / manifest.ARRAYS)
    for stored, (dtype, shape) in table.items():
      if stored.startswith(prefix):
        name = stored.removeprefix(prefix)
        places[name] = (where / manifest.ARRAYS, stored)
        entries[name] = reader.Entry(tuple(shape), _dtype(dtype, folder, name))
        _check(found.get(stored), entries[name], f"{where / manifest.ARRAYS}: {stored}")
  trained = frozenset(name for name, (where, _) in places.items() if where.parent == folder)
  entries = dict(sorted(entries.items()))
  tokenizer = folder / TOKENIZER if (folder / TOKENIZER).exists() else None
  config = _config(folder)
  tuned = reader.Weights(
    path=folder,
    kind="run",
    entries=entries,
    sizes={},
    tokenizer=tokenizer,
    blocks=lambda name: iter((_read(*places[name], entries[name]),)),
  )
  weights = tuned if merge.is_plain(entries) else merge.weights(model_of(config), tuned)
  # Parameters that a fork of the model added have no row in the table; `load_params` checks them.
  shapes = {n: e.shape for n, e in weights.entries.items() if n in param_table.TABLE}
  sizes = param_table.sizes_of(shapes, str(folder))
  return Native(
    dataclasses.replace(weights, sizes=sizes),
    dataclasses.replace(tuned, sizes=sizes),
    config,
    tokenizer,
    facts["step"],
    trained,
  )


def model_of(config: Mapping[str, Any]) -> variants.ModelConfig:
  """The ModelConfig of a run's configuration as plain data, of this version or an older one."""
  full = configs.from_plain({k: config[k] for k in ("model", "lora") if k in config}, "the run")
  return variants.of_run(full.model.to_dict(), full.lora.to_dict())


def _config(folder: pathlib.Path) -> dict[str, Any]:
  try:
    return strict_json.read_object(folder / CONFIG)
  except FileNotFoundError:
    return {}
  except (OSError, strict_json.Malformed) as e:
    raise errors.StateError(f"Cannot read {folder / CONFIG}: {strict_json.reason(e)}.") from None


def _read(folder: pathlib.Path, stored: str, entry: reader.Entry) -> np.ndarray:
  """One array, which must be what the seal says."""
  try:
    array = arrays.read_one(folder, stored)
  except Exception as e:
    raise _unreadable(f"{folder}: {stored}", e) from None
  # By its own description it may be a plain number.
  parts = getattr(array, "shape", None)
  _check((getattr(array, "dtype", None), parts, parts), entry, f"{folder}: {stored}")
  return array


def _described(folder: pathlib.Path) -> dict[str, tuple[Any, Any, Any]]:
  try:
    return arrays.described(folder)
  except Exception as e:
    raise _unreadable(str(folder), e) from None


def _unreadable(what: str, error: Exception) -> errors.StateError:
  """Of what orbax and tensorstore raise on a folder that they did not write, which is anything."""
  why = " ".join(str(error).split())[:200]
  return errors.StateError(f"{what} cannot be read: {type(error).__name__}: {why}.")


def _check(found: tuple[Any, Any, Any] | None, entry: reader.Entry, what: str) -> None:
  """StateError unless an array is what the seal says, by its own description.

  Without this, before it is read, a few bytes could ask for more memory than there is, which ends
  the process.
  """
  dtype, shape, parts = found or (None, None, None)
  if (dtype, shape) != (entry.dtype, entry.shape):
    raise errors.StateError(
      f"{what} is {dtype} {str(shape)[:100]}, but sealed as {entry.dtype} {entry.shape}."
    )
  if len(parts) != len(shape) or any(np.array(parts) > np.maximum(shape, 1)):
    raise errors.StateError(f"{what} has parts of {str(parts)[:100]}, more than all of {shape}.")


def _dtype(name: str, folder: pathlib.Path, parameter: str) -> np.dtype:
  try:
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
  except (TypeError, ValueError, SyntaxError):
    dtype = np.dtype(object)
  if dtype.hasobject or dtype.shape or dtype.names:
    raise errors.StateError(f"{folder}: {parameter} is sealed with the unknown dtype {name!r}.")
  return dtype
