"""What a run reports: one line per step in metrics.jsonl, the same numbers for TensorBoard.

Each step stands in metrics.jsonl exactly once, also after a crash, and a run that was killed and
started again leaves the same bytes as one that was not, but for the values of TIMING_KEYS. The
order that makes it so is the caller's: all that belongs to steps before s is added and flushed
*before* the checkpoint of s is saved; on a restart from s later lines are cut, and what belongs to
s is added if it was not.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.trainer import event_files
from paligemma_jax.trainer import files
from paligemma_jax.trainer import workdir as workdirs

# The keys whose values come from a clock; a comparison of two runs leaves them out.
TIMING_KEYS = ("examples_per_second",)
_NON_FINITE = ("NaN", "Infinity", "-Infinity")  # As `files.to_line` spells them.


class MetricsLog:
  """Gathers the numbers of each step and writes them in order.

  Args:
    workdir: of the run.
    resume_step: the step of the restored state; -1 when the run starts anew. Lines of later steps
      are cut.
    tensorboard: 'on' writes event files too, 'off' does not.
    main: whether this is the process that writes; in the others all calls do nothing.

  Attributes:
    num_cut: whole lines of later steps that were cut.
    num_torn: unreadable lines that were dropped.
  """

  def __init__(
      self, workdir: workdirs.Workdir, *, resume_step: int, tensorboard: str, main: bool
  ):
    self.num_cut = self.num_torn = 0
    self._pending: dict[int, dict[str, float]] = {}
    self._last_step = resume_step
    self._file = self._events = None
    if not main:
      return
    found, num_torn = files.read_lines(workdir.metrics)
    lines = [line for line in found if _is_line(line)]
    self.num_torn = num_torn + len(found) - len(lines)
    kept = [line for line in _rising(lines) if line["step"] <= resume_step]
    self.num_cut = len(lines) - len(kept)
    self._file = files.LineFile(workdir.metrics, map(files.to_line, kept), fault="metrics")
    if errors.pick({"on": True, "off": False}, tensorboard, "setting of tensorboard"):
      self._events = event_files.EventFile(workdir.tensorboard, resume_step)

  def add(self, step: int, values: Mapping[str, Any]) -> None:
    """Notes numbers of a step that was not flushed yet; several calls add up to one line.

    Args:
      values: scalars of Python, numpy or JAX (which are waited for); evaluations come as
        '<eval name>/<metric>'.
    """
    assert step > self._last_step, f"step {step} was flushed already"
    line = self._pending.setdefault(step, {})
    for name, value in values.items():
      assert name != "step" and name not in line, f"{name!r} of step {step} came twice"
      line[name] = number(value)

  def flush(self) -> None:
    """Writes all noted steps, in order, and waits until they are on disk.

    Raises:
      StateError: the file cannot be written.
    """
    records = []
    for step in sorted(self._pending):
      line = self._pending[step]
      timing = {k: line[k] for k in TIMING_KEYS if k in line}
      records.append({"step": step, **{k: v for k, v in line.items() if k not in timing}, **timing})
      self._last_step = step
    self._pending.clear()
    if self._file is None:
      return
    try:
      self._file.append(records)
    except OSError as e:
      raise errors.StateError(f"{self._file.path} cannot be written: {e.strerror or e}.") from e
    if self._events is not None:
      self._events.write(records)

  def close(self) -> None:
    """Writes what is left and closes the files."""
    self.flush()
    if self._file is not None:
      self._file.close()
    if self._events is not None:
      self._events.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, float]]:
  """The lines of a metrics.jsonl, also of a run that is under way or was killed, steps rising.

  Non-finite numbers come back as floats. A line with anything else than numbers is none of ours.
  """
  lines = [line for line in files.read_lines(path)[0] if _is_line(line)]
  return [parsed(line.items()) for line in _rising(lines)]


def plain(values: Mapping[str, int | float]) -> list[list[Any]]:
  """Names and values as JSON holds them: a float that it has no number for is a text.

  Pairs keep their order in a file whose keys are sorted.
  """
  return [[name, value] for name, value in json.loads(files.to_line(values)).items()]


def parsed(pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
  """The inverse of `plain`: non-finite numbers are floats again."""
  return {name: float(v) if isinstance(v, str) else v for name, v in pairs}


def of_step(
    numbers: Mapping[str, np.ndarray], rows: np.ndarray, more: Mapping[str, int]
) -> dict[str, int | float]:
  """What a line says of a training step.

  Args:
    numbers: the `sums` of the step; see `training.step`.
    rows: int64[b], the row numbers of its batch.
    more: what else the line says.
  """
  num_tokens = float(numbers["num_tokens"])
  values = {
      "loss": numbers["loss"],
      "lr": numbers["lr"],
      "grad_norm": numbers["grad_norm"],
      "update_norm": numbers["update_norm"],
      "token_accuracy": float(numbers["num_correct"]) / max(num_tokens, 1.0),
      "num_tokens": int(num_tokens),
      "num_rows": int(numbers["num_rows"]),
      **more,
      # Equal for two runs only if they saw the same rows in the same places.
      "rows_crc32": zlib.crc32(np.ascontiguousarray(rows, np.int64).tobytes()),
  }
  return {name: number(value) for name, value in values.items()}


def number(value: Any) -> int | float:
  """A Python number; a float32 becomes the shortest decimal that reads back as the same float32."""
  if isinstance(value, (bool, int, float)):
    return value
  array = np.asarray(value)
  if array.shape != ():
    raise errors.ConfigError(f"A metric must be a single number; got shape {list(array.shape)}.")
  if array.dtype.kind in "iub":
    return int(array)
  if array.dtype == np.float64:
    return float(array)
  return float(str(array.astype(np.float32)))


def _is_line(line: Mapping[str, Any]) -> bool:
  """A step and numbers alone; somebody may have edited the file."""
  return type(line.get("step")) is int and all(
      isinstance(value, (int, float)) or value in _NON_FINITE for value in line.values()
  )


def _rising(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The lines whose step is above that of all lines before."""
  kept, last = [], -1
  for line in lines:
    if line["step"] > last:
      kept.append(line)
      last = line["step"]
  return kept
