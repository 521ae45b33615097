"""A trace of some steps of a run, by JAX's profiler, in the workdir; see docs/profile.md."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import jax
from absl import logging

from paligemma_jax.config import schema
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.trainer import progress as progress_lib
from paligemma_jax.trainer import workdir as workdirs


class Profile:
  """Traces the steps of `log.profile`: all that this process does from the first to after the last.

  A profiler that fails is logged, and the run goes on.

  Args:
    text: the config's `log.profile`.
    total: steps of the run.
    main: whether this is the process that traces; the others do nothing.

  Raises:
    ConfigError: the run has no such steps.
  """

  def __init__(
    self,
    text: str,
    workdir: workdirs.Workdir,
    *,
    total: int,
    main: bool,
    progress: progress_lib.Progress,
  ):
    self._first, self._last = schema.parse_steps(text, "log.profile")
    if self._last > total:
      raise errors.ConfigError(
        f"log.profile={text!r}, but the run has {total} steps; name some of these."
      )
    self._main, self._progress = main, progress
    self._workdir = workdir
    self._local: tempfile.TemporaryDirectory[str] | None = None  # While a trace is under way.

  def at(self, step: int, state: Any) -> None:
    """Begins or ends the trace, before this step; at its end waits for the `state` of the last."""
    if self._local is not None and step > self._last:
      jax.block_until_ready(state)
      self.close()
    elif self._local is None and self._main and self._last:
      if step > self._last:
        self._progress.note(f"no profile: step {self._last} is done already")
        self._last = 0
      elif step >= self._first:
        self._begin()

  def close(self) -> None:
    """Ends a trace that is under way, and writes it."""
    if self._local is None:
      return
    local, self._local = self._local, None
    try:
      with local, self._progress.part("save"):
        jax.profiler.stop_trace()
        self._write(pathlib.Path(local.name))
    except Exception as e:  # Of the profiler: any.
      _log_failure(e)
    else:
      steps = f"{self._first}-{self._last}"
      self._progress.note(f"profile of steps {steps}: {self._workdir.profile}; xprof opens it")
    self._last = 0

  def _begin(self) -> None:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Every call of a function: larger than all else, and slow.
    local = tempfile.TemporaryDirectory()
    try:
      jax.profiler.start_trace(local.name, profiler_options=options)
    except Exception as e:  # As above; another trace may be under way.
      self._last = 0  # Not again at the next step.
      local.cleanup()
      _log_failure(e)
    else:
      self._local = local

  def _write(self, local: pathlib.Path) -> None:
    for path in atomic_io.files_below(local):
      target = self._workdir.profile / path.relative_to(local)
      atomic_io.make_folder(target.parent, below=self._workdir.path)
      atomic_io.write_atomically(target, path.read_bytes())


def _log_failure(error: Exception) -> None:
  logging.error(
    "no profile is written: %s: %s; the run goes on", type(error).__name__, str(error).strip()
  )
