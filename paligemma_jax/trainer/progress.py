"""When something is due, progress a person can read, and where the time of a run went."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import jax
import ml_collections

from paligemma_jax.config import schema
from paligemma_jax.trainer import notebook

# What a run spends its time on, and how it is said of a host that others wait for; every second
# counts to exactly one of these.
PARTS = {
  "start": "starting",
  "step": "in a step",
  "compile": "compiling the step",
  "data": "reading data",
  "eval": "in an evaluation",
  "save": "in a save",
}
# The same in reports, in their order. "lost" are steps, with their evaluations and saves, that a
# process finished and no saved state has: a later process computed them again.
_REPORTED = {
  "start": "start",
  "compile": "compilation",
  "data": "waiting for data",
  "step": "steps",
  "eval": "evaluation",
  "save": "saving",
  "lost": "lost",
}
_PREFIX = "seconds/"
TIMES = tuple(_PREFIX + name for name in _REPORTED)  # The names of the totals among the metrics.

_LONG = ("compile", "eval", "save")  # What a notebook says is under way.


def view() -> notebook.View | None:
  """A view in the notebook that runs this process; None where there is none."""
  ipython = sys.modules.get("IPython")
  shell = ipython.get_ipython() if ipython is not None else None
  if getattr(shell, "kernel", None) is None:  # IPython in a terminal has no kernel.
    return None
  from IPython import display

  return notebook.View(display)


class Progress:
  """One updating line on a terminal, one line per report in a plain log, a view in a notebook.

  Every second counts to one of PARTS: to "start" until `begin_steps`, then to "step" except inside
  `part(name)`.

  Args:
    main: whether this process writes, to `stream` or stderr; the others only measure.
    clock: seconds, monotonic.
    on_part: called with the text of each part that begins.
    view: of the notebook that the process runs in; nothing is then written to `stream`.
  """

  def __init__(
    self,
    *,
    batch_size: int,
    main: bool,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_part: Callable[[str], None] | None = None,
    view: notebook.View | None = None,
  ):
    self._total = self._start_step = self._reported_step = 0
    self._before: Mapping[str, float] = {}
    self._batch_size = batch_size
    self.view = view
    self._stream = (stream or sys.stderr) if main and view is None else None
    self._is_terminal = bool(self._stream and self._stream.isatty())
    self._clock = clock
    self._on_part = on_part
    self._stack = ["start"]
    self._secs = dict.fromkeys(PARTS, 0.0)
    self._since = clock()
    self._reported_secs = dict(self._secs)
    self._shown = ""

  def resume(self, step: int, total: int, before: Mapping[str, float]) -> None:
    """The run goes on from this step of `total`; `before` is of `spent_before`."""
    self._start_step = self._reported_step = step
    self._total, self._before = total, before

  def begin_steps(self) -> None:
    """From now on time counts as "step", not as "start"."""
    self._settle()
    self._stack[0] = "step"

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Time inside the block counts as `name`; of nested blocks the innermost counts."""
    assert name in PARTS, name
    self._settle()
    self._stack.append(name)
    if self._on_part:
      self._on_part(PARTS[name])
    if self.view and name in _LONG:
      self.view.doing(PARTS[name])
    try:
      with jax.profiler.TraceAnnotation(name):
        yield
    finally:
      self._settle()
      self._stack.pop()
      if self.view and name in _LONG:
        self.view.doing("")

  def totals(self) -> dict[str, float]:
    """Seconds per part of this process; they sum to the time that passed."""
    self._settle()
    return dict(self._secs)

  def times(self) -> dict[str, float]:
    """{'seconds/step': …} for each of TIMES: of all processes of the run, this one included."""
    secs = self.totals()
    names = {name: name.removeprefix(_PREFIX) for name in TIMES}
    return {
      key: round(self._before.get(key, 0.0) + secs.get(name, 0.0), 2) for key, name in names.items()
    }

  def log(self, step: int, values: dict[str, float]) -> dict[str, float]:
    """Reports that `step` steps are done, with `values` in their order.

    Returns:
      The rates since the last report.
      examples_per_second: rows per second of "step" and "data" time.
      data_wait_share: share of that time spent waiting for data.
    """
    secs = self.totals()
    spent = {part: secs[part] - self._reported_secs[part] for part in PARTS}
    working = spent["step"] + spent["data"]
    num_rows = (step - self._reported_step) * self._batch_size
    rates = {
      "examples_per_second": num_rows / working if working > 0 else 0.0,
      "data_wait_share": spent["data"] / working if working > 0 else 0.0,
    }
    self._reported_step, self._reported_secs = step, secs
    line = " | ".join(self._pieces(step, values, rates))
    if self.view:
      self.view.line(step, self._total, line, values.get("loss"))
    if self._is_terminal:
      self._shown = _fitted(line, self._stream)
      line = "\r\x1b[K" + self._shown
    else:
      line += "\n"
    self._write(line)
    return rates

  def note(self, text: str) -> None:
    """Writes a line of its own, without spoiling the updating one."""
    if self.view:
      self.view.note(text)
    erase = "\r\x1b[K" if self._shown else ""
    self._write(f"{erase}{text}\n{self._shown}")

  def close(self) -> None:
    """Ends the updating line."""
    if self.view:
      self.view.close()
    if self._shown:
      self._write("\n")
    self._shown = ""

  def _write(self, text: str) -> None:
    if self._stream is not None:
      self._stream.write(text)
      self._stream.flush()

  def _settle(self) -> None:
    now = self._clock()
    self._secs[self._stack[-1]] += now - self._since
    self._since = now

  def _pieces(self, step: int, values: dict[str, float], rates: dict[str, float]) -> Iterator[str]:
    yield f"step {step}/{self._total} ({100 * step / max(self._total, 1):.0f} %)"
    for name, value in values.items():
      yield f"{name} {_short(value)}"
    yield f"{_short(rates['examples_per_second'])} examples/s"
    done = step - self._start_step
    if done >= 2:  # The first step stands for nothing: evaluations of the start count to it.
      # At the pace so far, evaluations and saves included, compilation not.
      spent = sum(secs for part, secs in self._secs.items() if part not in ("start", "compile"))
      yield f"{duration(spent / done * (self._total - step))} left"
    # Below this the accelerator, not the input, sets the pace and the figure is noise.
    if rates["data_wait_share"] >= 0.05:
      yield f"waiting for data {100 * rates['data_wait_share']:.0f} %"


def spent_before(
  lines: Sequence[Mapping[str, float]], step: int, saved: Mapping[str, float]
) -> dict[str, float]:
  """The `times` that earlier processes spent on a run that goes on from `step`.

  What was done after that step counts as lost, up to the newest line: more is not known of a
  process that was killed.

  Args:
    lines: of metrics.jsonl, those of later steps too.
    saved: the `times` when the state of `step` was saved; {} without one.
  """
  kept = next((line for line in reversed(lines) if line["step"] <= step), {})
  at = {key: max(kept.get(key, 0.0), saved.get(key, 0.0)) for key in TIMES}
  newest = lines[-1] if lines else {}
  gone = {key: max(newest.get(key, 0.0) - at[key], 0.0) for key in TIMES}
  for name in ("start", "compile"):  # Not of a step.
    at[_PREFIX + name] += gone.pop(_PREFIX + name)
  at[_PREFIX + "lost"] += sum(gone.values())
  return {key: round(secs, 2) for key, secs in at.items()}


def shares(times: Mapping[str, float]) -> list[tuple[str, float, float]]:
  """(what, seconds, percent of all) of `Progress.times`; [] where there are none."""
  total = sum(times.get(key, 0.0) for key in TIMES)
  secs = [(what, times.get(_PREFIX + name, 0.0)) for name, what in _REPORTED.items()]
  return [(what, each, 100 * each / total) for what, each in secs] if total else []


def summary(times: Mapping[str, float]) -> str:
  """One line on where the time went, without what took next to none."""
  known = [each for each in shares(times) if each[2] >= 0.5]
  told = [f"{what} {duration(secs)} ({percent:.0f} %)" for what, secs, percent in known]
  return f"time:    {', '.join(told)}"


def duration(secs: float) -> str:
  """Seconds as people say them: '42 s', '3 min 05 s', '2 h 07 min', '3 d 4 h'."""
  secs = max(0, round(secs))
  minutes, hours, days = secs // 60, secs // 3600, secs // 86400
  if minutes < 1:
    return f"{secs} s"
  if hours < 1:
    return f"{minutes} min {secs % 60:02d} s"
  if days < 1:
    return f"{hours} h {minutes % 60:02d} min"
  return f"{days} d {hours % 24} h"


def _short(value: float) -> str:
  """Four significant digits, without an exponent where that is easy to read."""
  if isinstance(value, int) or (value == 0):
    return str(int(value))
  if 1e-3 <= abs(value) < 1e6:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
  return f"{value:.2e}"


def _fitted(line: str, stream: Any) -> str:
  """The line cut to the terminal's width: one that wraps could not be overwritten."""
  try:
    width = os.get_terminal_size(stream.fileno()).columns or 80
  except (OSError, ValueError):
    width = 80
  return line if len(line) < width else line[: width - 2] + "…"


class Calendar:
  """What is due at a step follows from the configuration and the length of the run alone.

  Raises:
    ConfigError: a duration that is none.
  """

  def __init__(self, config: ml_collections.ConfigDict, total: int, num_rows: int):
    self._total = total
    steps = functools.partial(
      schema.to_steps,
      batch_size=config.train.batch_size,
      num_examples=num_rows,
      total_steps=total,
    )
    self._log_every = steps(config.log.every, "log.every")
    self._save_every = steps(config.ckpt.every, "ckpt.every")
    self._eval_every = {e.name: steps(e.every, f"{e.name}: every") for e in config.evals}

  def evals(self, step: int) -> list[str]:
    """Evaluators that run after this step; all run at the end, at 0 those that run in between."""
    last = step == self._total
    return [n for n, every in self._eval_every.items() if last or (every and step % every == 0)]

  def is_save(self, step: int) -> bool:
    """Whether the state is saved after this step whatever is found."""
    return bool(step == self._total or (self._save_every and step % self._save_every == 0))

  def is_line(self, step: int) -> bool:
    """Whether a line of metrics is written for this step."""
    log_now = self._log_every and step % self._log_every == 0
    return bool(step in (1, self._total) or log_now or self.is_save(step) or self.evals(step))
