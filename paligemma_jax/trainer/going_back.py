"""`--resume_step`: going on from a chosen saved step; what was written after it is set aside."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from typing import Any

import ml_collections

from paligemma_jax.checkpoint import layout
from paligemma_jax.checkpoint import manifest
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.core import strict_json
from paligemma_jax.trainer import metrics as metrics_lib
from paligemma_jax.trainer import workdir as workdirs

_MAX_BYTES = 1 << 32  # Of metrics.jsonl.
_STEP_OF = re.compile(r"-(\d+)(?:\.[^.]+)?$")  # In names of prediction files.


def go_back(workdir: workdirs.Workdir, step: int, config: ml_collections.ConfigDict) -> str:
  """Makes `step` the newest state of the workdir; what was done, in one sentence.

  The same command is given again after a stop or a crash, so going back happens once: when this
  step and this configuration were gone back to before, the run that came of it goes on.

  Raises:
    ConfigError: there is no such saved step, or it is not intact.
  """
  saved = layout.steps_in(workdir.checkpoints) if workdir.checkpoints.is_dir() else []
  record = {"step": step, "config": _digest(config)}
  done = workdir.path / "resume_step.json"
  if _read(done) == record:
    return f"--resume_step {step} was done before; the run goes on from its newest state"
  if step not in saved:
    listed = ", ".join(map(str, sorted(saved))) or "none"
    raise errors.ConfigError(
        f"--resume_step {step}: {workdir.checkpoints} has no such step; saved: {listed}."
    )
  try:
    layout.verify_step(workdir.checkpoints / str(step))
  except manifest.Broken as e:
    raise errors.ConfigError(f"--resume_step {step}: that state is not intact: {e}.") from None
  place = _set_aside(workdir, step, [s for s in saved if s > step])
  atomic_io.write_atomically(done, json.dumps(record) + "\n")
  told = f"; what was written after it is in {place}" if place else ""
  return f"went back to step {step}{told}"


def _set_aside(
    workdir: workdirs.Workdir, step: int, later: list[int]
) -> pathlib.Path | None:
  """Moves what is of later steps to a folder of its own, metrics as a copy; None without any."""
  predictions = [
      path
      for path in (workdir.predictions.rglob("*") if workdir.predictions.is_dir() else ())
      if (found := _STEP_OF.search(path.name)) and int(found[1]) > step and path.is_file()
  ]
  has_lines = any(line["step"] > step for line in metrics_lib.read(workdir.metrics))
  if not (later or predictions or has_lines):
    return None
  number = 1
  while (place := workdir.path / "set_aside" / f"{number}_after_step_{step}").exists():
    number += 1
  atomic_io.make_folder(place / workdir.checkpoints.name, below=workdir.path)
  if workdir.metrics.exists():
    atomic_io.write_new(place / workdir.metrics.name, atomic_io.read(workdir.metrics, max_bytes=_MAX_BYTES))
  for path in predictions:
    target = place / path.relative_to(workdir.path)
    atomic_io.make_folder(target.parent, below=workdir.path)
    os.replace(path, target)
  for s in sorted(later, reverse=True):  # Cut short, this leaves a run whose newest step is later.
    os.replace(workdir.checkpoints / str(s), place / workdir.checkpoints.name / str(s))
  atomic_io.sync(workdir.checkpoints)
  return place


def _read(path: pathlib.Path) -> dict[str, Any]:
  """What was gone back to; {} when nothing was, or when the file is none of ours."""
  try:
    return strict_json.read_object(path, max_bytes=4096)
  except (OSError, strict_json.Malformed):
    return {}


def _digest(config: ml_collections.ConfigDict) -> str:
  text = json.dumps(specs.to_json(config.to_dict()), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
