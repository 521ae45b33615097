"""A run is not resumed with a configuration or rows that would make it another run.

A run begins with its first saved state: before that there is nothing to damage, and nothing is
refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import store
from paligemma_jax.config import load as configs
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.core import strict_json
from paligemma_jax.data import order
from paligemma_jax.trainer import metrics as metrics_lib
from paligemma_jax.trainer import workdir as workdirs
from paligemma_jax.training import optimizers

_NUM_SHOWN = 20
_ANOTHER = "another --workdir begins a new run (init={} starts that with these weights)"


@dataclasses.dataclass(frozen=True)
class Data:
  """The training data of a run, and its changes.

  parts: of the training rows, ops and tokenizer (`data.order.fingerprint`).
  total: steps of the run.
  changes: {"step": when, "what": sentences} of each change that was allowed.
  digests: `data.order.digests`.
  old: what the run had when it was last started; None of a new one.
  news: what is allowed to differ from `old`, as sentences.
  """

  parts: Mapping[str, str]
  num_rows: int
  total: int
  changes: tuple[Mapping[str, Any], ...] = ()
  digests: np.ndarray | None = None
  old: Data | None = None
  news: tuple[str, ...] = ()


def is_begun(workdir: workdirs.Workdir) -> bool:
  """Whether the folder holds a run: a saved step, or the outputs of a finished run."""
  if workdir.report.exists() or workdir.export.exists():
    return True
  return workdir.checkpoints.is_dir() and bool(manifest.steps_in(workdir.checkpoints))


def check_config(
  config: ml_collections.ConfigDict, workdir: workdirs.Workdir, *, allow_data_change: bool
) -> list[str]:
  """Compares the configuration with that of the run in the workdir, if there is one.

  Returns:
    The changes of the data that are allowed, as sentences.

  Raises:
    ConfigError: a key changed that the rest of the run cannot change; lists the fields.
  """
  if not is_begun(workdir) or not workdir.config.exists():
    return []
  found = configs.changes(configs.read(workdir.config, keep_unknown=True), config)
  refused = found["refuse"] + ([] if allow_data_change else found["data"])
  if refused:
    options = ["The old values go on with it", _ANOTHER.format(workdir.path)]
    if found["data"] and not found["refuse"]:
      options.append("--allow_data_change goes on with the new rows")
    heading = f"{workdir.path} holds a run with another configuration. What was -> what is now"
    raise _refusal(heading, refused, options)
  for change in found["warn"]:
    logging.warning("this run was started with another value: %s", change)
  for change in found["moved"]:
    logging.warning("%s: the run goes on if the rows there are the same", change)
  return found["data"]


def check_data(
  parts: Mapping[str, str],
  rows: Any,
  total: int,
  workdir: workdirs.Workdir,
  *,
  duration: str,
  allowed: Sequence[str] = (),
  allow_data_change: bool,
) -> Data:
  """Compares the rows, and the length of the run, with those of the run in the workdir.

  Args:
    parts, total: as in `Data`.
    duration: `total` as the configuration has it ('15 epochs').
    allowed: what `check_config` returned.
    allow_data_change: only log the differences.

  Raises:
    ConfigError: the batches would not be those that the run was started with; or the run would be
      shorter.
  """
  now = Data(parts, len(rows), total)
  old = _read(workdir) if is_begun(workdir) else None
  if old is None:
    return dataclasses.replace(now, digests=order.digests(rows))
  changed = order.changes(old.parts, parts)
  digests = old.digests
  if "rows" in changed:
    digests = order.digests(rows)
    if old.digests is not None and digests is not None:
      changed["rows"] = [f"rows: {order.row_changes(old.digests, digests, old.num_rows, rows)}"]
  if changed and old.total and old.total != total:
    changed["length"] = [
      f"{duration!r} is now {total} steps, it was {old.total}; the order of the rows is drawn"
      " anew, so that of the epoch under way some may come twice and others not"
    ]
  lines = [line for listed in changed.values() for line in listed]
  if lines and not allow_data_change:
    options = ["The old data goes on with it", _ANOTHER.format(workdir.path)]
    options.append("--allow_data_change goes on with the new data")
    heading = f"{workdir.path}: the data is not what this run began with"
    raise _refusal(heading, lines, options)
  if not changed and total < old.total:
    raise errors.ConfigError(
      f"{workdir.path}: train.total={duration!r} is {total} steps, but the run was started for"
      f" {old.total}: it can be made longer, not shorter. Use the old value, or another --workdir"
      f" for a new run (init={workdir.path} starts that with these weights)."
    )
  news = tuple(dict.fromkeys((*allowed, *lines)))
  for line in news:
    logging.warning("the data is not what this run began with: %s", line)
  return dataclasses.replace(now, changes=old.changes, digests=digests, old=old, news=news)


def claim(
  config: ml_collections.ConfigDict,
  data: Data,
  workdir: workdirs.Workdir,
  *,
  step: int,
  main: bool,
) -> Data:
  """Writes configuration and data into the workdir, whose run now has them; the data as written.

  Args:
    step: that the run goes on from; 0 of a new one.
  """
  if data.news:
    change = {"step": step, "what": list(data.news)}
    data = dataclasses.replace(data, changes=(*data.changes, change))
  if main:
    if data.digests is not None:
      # First: they are only believed beside a data.json of as many rows.
      atomic_io.write_atomically(workdir.rows, data.digests.astype("<u2").tobytes())
    facts = {"num_rows": data.num_rows, "total": data.total, "changes": list(data.changes)}
    text = json.dumps({**data.parts, **facts}, indent=2)
    atomic_io.write_atomically(workdir.data, text + "\n")
    configs.save(config, workdir.config)
  return data


def new_length(config: ml_collections.ConfigDict, data: Data, *, step: int, path: Any) -> str:
  """What another length does to a run that goes on from `step`; '' for the same length."""
  old = data.old
  if old is None or not old.total or old.total == data.total:
    return ""
  lrs = []
  for total, num_rows in ((old.total, old.num_rows), (data.total, data.num_rows)):
    schedule: Any = optimizers.make_schedule(
      config.optim, total, batch_size=config.train.batch_size, num_examples=num_rows
    )
    lrs.append(config.optim.lr * float(schedule(min(step, total))))
  text = (
    f"the run now has {data.total} steps instead of {old.total}; its schedule"
    f" ({config.optim.schedule}) ends there, and after step {step} the learning rate is"
    f" {lrs[1]:.3g} instead of {lrs[0]:.3g}"
  )
  if step >= old.total:
    text += (
      f". The run was complete; to train longer with a schedule of its own, begin a new one in"
      f" another --workdir with init={path}"
    )
  return text


def _read(workdir: workdirs.Workdir) -> Data | None:
  """The content of data.json, some of which older versions lack; None when there is none."""
  if not workdir.data.exists():
    return None
  try:
    found = strict_json.read_object(workdir.data)
    facts = {name: found.pop(name, 0) for name in ("num_rows", "total")}
    changes = found.pop("changes", [])
    good = all(isinstance(v, str) for v in found.values())
    if not good or not all(type(v) is int and v >= 0 for v in facts.values()):
      raise ValueError("a value is of another type, or negative")
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
      raise ValueError("a change is no object")
  except (OSError, ValueError) as e:
    raise errors.ConfigError(
      f"{workdir.data} is damaged ({strict_json.reason(e)}), so it cannot be said whether the"
      " rows are the same. If they are, delete the file."
    ) from None
  return Data(
    found, **facts, changes=tuple(changes), digests=_read_digests(workdir, facts["num_rows"])
  )


def _read_digests(workdir: workdirs.Workdir, num_rows: int) -> np.ndarray | None:
  """The digests, which only tell which row differs; None when they cannot be read."""
  try:
    digests = np.frombuffer(atomic_io.read(workdir.rows, max_bytes=2 * order.MAX_DIGESTS), "<u2")
  except (OSError, ValueError):
    return None
  expected = -(-num_rows // order.rows_each(num_rows))
  return digests if len(digests) == expected else None


def _refusal(heading: str, lines: Sequence[str], options: Sequence[str]) -> errors.ConfigError:
  more = [f"and {len(lines) - _NUM_SHOWN} more"] if len(lines) > _NUM_SHOWN else []
  listed = "".join(f"\n  {line}" for line in [*lines[:_NUM_SHOWN], *more])
  return errors.ConfigError(f"{heading}:{listed}\n{', '.join(options[:-1])}, or {options[-1]}.")


_MAX_BYTES = 1 << 32  # Of metrics.jsonl.
_STEP_OF = re.compile(r"-(\d+)(?:\.[^.]+)?$")  # In names of prediction files.


def go_back(
  workdir: workdirs.Workdir,
  checkpoints: store.Checkpoints,
  step: int,
  config: ml_collections.ConfigDict,
) -> str:
  """Makes `step` the newest state of the workdir; what was done, in one sentence.

  The same command is given again after a stop or a crash, so it is done once for a step and a
  configuration.

  Raises:
    ConfigError: there is no such saved step, or it is not intact.
  """
  saved = checkpoints.steps()
  text = json.dumps(specs.to_json(config.to_dict()), sort_keys=True)
  record = {"step": step, "config": hashlib.sha256(text.encode()).hexdigest()}
  done = workdir.path / "resume_step.json"
  try:
    last = strict_json.read_object(done, max_bytes=4096)
  except (OSError, strict_json.Malformed):  # There was none, or the file is not ours.
    last = {}
  if last == record:
    return f"--resume_step {step} was done before; the run goes on from its newest state"
  if step not in saved:
    listed = ", ".join(map(str, saved)) or "none"
    raise errors.ConfigError(
      f"--resume_step {step}: {workdir.checkpoints} has no such step; saved: {listed}."
    )
  try:
    checkpoints.verify(step)
  except manifest.Broken as e:
    raise errors.ConfigError(f"--resume_step {step}: that state is not intact: {e}.") from None
  place = _set_aside(workdir, step, [s for s in saved if s > step])
  atomic_io.write_atomically(done, json.dumps(record) + "\n")
  told = f"; what was written after it is in {place}" if place else ""
  return f"went back to step {step}{told}"


def _set_aside(workdir: workdirs.Workdir, step: int, later: list[int]) -> pathlib.Path | None:
  """Moves the files of later steps to a folder of its own, metrics as a copy; None without any."""
  predictions = [
    path
    for path in atomic_io.files_below(workdir.predictions)
    if (found := _STEP_OF.search(path.name)) and int(found[1]) > step
  ]
  has_lines = any(line["step"] > step for line in metrics_lib.read(workdir.metrics))
  if not (later or predictions or has_lines):
    return None
  number = 1
  while (place := workdir.path / "set_aside" / f"{number}_after_step_{step}").exists():
    number += 1
  atomic_io.make_folder(place / workdir.checkpoints.name, below=workdir.path)
  if workdir.metrics.exists():
    atomic_io.write_new(
      place / workdir.metrics.name, atomic_io.read(workdir.metrics, max_bytes=_MAX_BYTES)
    )
  for path in predictions:
    target = place / path.relative_to(workdir.path)
    atomic_io.make_folder(target.parent, below=workdir.path)
    atomic_io.move(path, target)
  for s in sorted(later, reverse=True):  # Cut short, this leaves a run whose newest step is later.
    atomic_io.move(workdir.checkpoints / str(s), place / workdir.checkpoints.name / str(s))
  atomic_io.sync(workdir.checkpoints)
  return place
