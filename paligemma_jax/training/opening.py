"""Opens weights of any kind, a training run's among them, and says which model they are of."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

from absl import logging

from paligemma_jax.core import errors
from paligemma_jax.models import matrices
from paligemma_jax.models import variants
from paligemma_jax.training import native
from paligemma_jax.weights import load
from paligemma_jax.weights import peft
from paligemma_jax.weights import published
from paligemma_jax.weights import reader

T = TypeVar("T")
_TRIES = 3  # Of reading a run whose steps come and go.


def open_weights(path: str | os.PathLike) -> reader.Weights:
  """Opens weights of any kind, a run's newest intact step among them; no data is read.

  A run's sizes are those of its config, with softcaps and all that shapes cannot tell.

  Raises:
    CheckpointError: nothing at `path`, or damaged, hostile or unfit files.
    StateError: a run without any intact step.
  """
  path = published.find(path)
  if not native.is_run(path):
    return load.open_weights(path)
  run = native.open_native(path)
  if "model" not in run.config:
    return run.weights
  return dataclasses.replace(run.weights, sizes=sizes_of(native.model_of(run.config)))


def read_steadily(path: str | os.PathLike, read: Callable[[], T]) -> T:
  """What `read` makes of the weights at `path`, once more where a run changed them meanwhile.

  A run that is under way deletes its older steps, also the one that is being read.
  """
  for _ in range(_TRIES):
    before = native.step_folders(published.find(path))
    try:
      return read()
    except Exception as e:
      if native.step_folders(published.find(path)) == before:
        raise
      logging.info("%s changed while it was read, so it is read again: %s", path, e)
  return read()


def save_peft(path: str | os.PathLike, to: str | os.PathLike) -> pathlib.Path:
  """Writes the adapters of a run, or of one step of it, as a PEFT directory; gives that back.

  Raises:
    CheckpointError: `path` is no run or has no adapters, or `to` exists.
  """
  if not native.is_run(path):
    raise errors.CheckpointError(f"{path}: is no run of ours; only those hold adapters.")
  run = native.open_native(path)
  adapters = {}
  for name in matrices.MATRICES:
    parts = {part: matrices.beside(name, part) for part in matrices.ADAPTER}
    found = {p: run.tuned.read(n) for p, n in parts.items() if n in run.tuned.entries}
    if found:
      adapters[name] = found
  lora = native.model_of(run.config).lora
  return peft.save_peft(
      to,
      adapters,
      run.tuned.sizes,
      rank=lora.rank,
      alpha=lora.alpha,
      rslora=lora.rslora,
      dora=lora.dora,
      dropout=lora.dropout,
  )


def config_of(
    sizes: Mapping[str, Any],
    *,
    dtype: str,
    res: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> variants.ModelConfig:
  """The ModelConfig of sizes that weights came with (`Weights.sizes`).

  Args:
    dtype: of matrix products.
    res: pixels; 0 keeps the weights' own.
    overrides: sizes to change, as {"llm.final_softcap": 30.0}.

  Raises:
    ConfigError: an unknown size or dtype, or sizes that do not fit together.
  """
  towers = {"img": dict(sizes["img"]), "llm": dict(sizes["llm"])}
  for key, value in (overrides or {}).items():
    tower, _, name = key.partition(".")
    errors.pick(
        errors.pick(towers, tower, "tower in overrides"), name, f"size in overrides {tower}"
    )
    towers[tower][name] = value
  return variants.ModelConfig(
      img=variants.Vit(**towers["img"]),
      llm=variants.Gemma(**towers["llm"]),
      res=res or sizes["res"],
      dtype=dtype,
  )


def sizes_of(config: variants.ModelConfig) -> dict[str, Any]:
  """The inverse of `config_of`."""
  towers = {"img": dataclasses.asdict(config.img), "llm": dataclasses.asdict(config.llm)}
  return {**towers, "res": config.res}
