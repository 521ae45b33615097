"""The training run: restore or start, batches through the step, saves, evaluations, metrics, end.

The order of events at a step is a contract that exact resume rests on:

1. The state is updated. The step's numbers are read when the next step is running.
2. At a step whose save is due the state is saved, with the step's line of metrics.jsonl and all
   counts so far. Nothing that can fail comes before.
3. Evaluations run on the state; then the step's numbers and theirs are written as one line.
4. Where they find the best value of `ckpt.best` yet, the state is saved if it was not.

A run resumes from its newest intact state. Lines of later steps are cut. Where the line of that
very step is due and missing, its evaluations run first and the line is written: so a run may end
between 2 and 3 as anywhere else. When a stop is requested, or something fails, while a finished
state is not on disk, it is saved (2) before the run ends; what is due of 3 is left for later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from paligemma_jax.checkpoint import store
from paligemma_jax.core import errors
from paligemma_jax.core import process
from paligemma_jax.core import spec as specs
from paligemma_jax.data import order
from paligemma_jax.multihost import agreement
from paligemma_jax.multihost import hosts
from paligemma_jax.trainer import bad_rows
from paligemma_jax.trainer import evaluation
from paligemma_jax.trainer import feature_cache
from paligemma_jax.trainer import metrics
from paligemma_jax.trainer import nonfinite
from paligemma_jax.trainer import outputs
from paligemma_jax.trainer import profile
from paligemma_jax.trainer import progress as progress_lib
from paligemma_jax.trainer import resume
from paligemma_jax.trainer import setup as setups
from paligemma_jax.trainer import signals
from paligemma_jax.trainer import workdir as workdirs
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states

_SHOWN = ("loss", "lr")  # In the progress line; everything is in metrics.jsonl.


def train(
  config: ml_collections.ConfigDict,
  path: str | os.PathLike[str],
  *,
  team: hosts.Team | None = None,
  allow_data_change: bool = False,
  resume_step: int = 0,
) -> None:
  """Runs a training from its start, or from its newest intact state, to its end.

  Args:
    config: valid for training (`config.load.validate`).
    path: the workdir.
    team: the hosts of the run; None when this is the only one.
    allow_data_change: resume although the rows are not those that the run was started with.
    resume_step: go back to this saved step first, once; see `resume.go_back`. 0: do not.

  Raises:
    Interrupted: asked to stop; the state is saved.
    ConfigError, DataError, WorkdirError, StateError, NumericsError: as their names say.
  """
  main = jax.process_index() == 0
  with (
    signals.StopRequest(team) as stop,
    workdirs.opened(path, main=main) as workdir,
    contextlib.ExitStack() as parts,
  ):
    make = functools.partial(
      _Run, config, workdir, team, stop, parts, allow_data_change, resume_step
    )
    try:
      stop.leaving(make).go()
    except signals.Left:
      raise errors.Interrupted(
        f"{stop.asked}: stopped; all steps that were finished are saved in"
        f" {workdir.checkpoints}. The same command goes on from there."
      ) from None


@dataclasses.dataclass
class _Finished:
  """A step whose numbers were read.

  values: of its line, but for those of evaluations.
  counts: of this host's loader, up to its batch.
  batch: int64[b], the numbers of this host's rows in it.
  rows: the counts of all hosts, from the first step of the run; {} until `_count`.
  """

  step: int
  values: dict[str, Any]
  counts: dict[str, int]
  batch: np.ndarray
  rows: dict[str, int] = dataclasses.field(default_factory=dict)


class _Run:
  """One run in one process: its parts, and where it stands."""

  # Made by `_start`, when the step is known from which the run resumes.
  _start_step: int
  _metrics: metrics.MetricsLog
  _row_counts: bad_rows.RowCounts

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: workdirs.Workdir,
    team: hosts.Team | None,
    stop: signals.StopRequest,
    parts: contextlib.ExitStack,
    allow_data_change: bool,
    resume_step: int,
  ):
    self._config = config
    self._workdir = workdir
    self._team = team
    self._stop = stop
    self._resume_step = resume_step
    self._main = jax.process_index() == 0
    self._parts = parts  # What must be closed at the end.
    self._progress = progress_lib.Progress(
      batch_size=config.train.batch_size,
      main=self._main,
      on_part=team.doing if team else None,
      view=progress_lib.view() if self._main else None,
    )
    self._parts.callback(self._progress.close)
    agreement.check_folder(team, workdir.path)
    metrics.check_best_name(config)
    allowed = resume.check_config(config, workdir, allow_data_change=allow_data_change)
    self._rows = config.train.source.open()
    if not len(self._rows):
      raise errors.DataError(f"The training source has no rows: {config.train.source}.")
    self._total = setups.total_steps(config, len(self._rows))
    self._setup = setups.prepare(config)
    data = order.fingerprint(self._rows, config.train.pp, self._setup.tokenizer)
    agreement.check(team, "training data", {"number of rows": len(self._rows), **data})
    self._data = resume.check_data(
      data,
      self._rows,
      self._total,
      workdir,
      duration=config.train.total,
      allowed=allowed,
      allow_data_change=allow_data_change,
    )
    sharding.check_batch(
      config.train.batch_size,
      self._setup.mesh,
      grad_accum_steps=config.train.grad_accum_steps,
      what="train.batch_size",
    )
    self._profile = profile.Profile(
      config.log.profile, workdir, total=self._total, main=self._main, progress=self._progress
    )
    self._parts.callback(self._profile.close)
    self._optimizer = setups.optimizer(self._setup, self._total, len(self._rows))
    self._calendar = progress_lib.Calendar(config, self._total, len(self._rows))
    self._policy = nonfinite.Policy(
      config.optim,
      self._total,
      lambda first: nonfinite.advice(
        metrics.read(workdir.metrics), self._checkpoints.steps(), first
      ),
    )
    self._config_json = json.dumps(specs.to_json(config.to_dict()), indent=2)
    begun = resume.is_begun(workdir)
    self._checkpoints = store.Checkpoints(
      workdir.checkpoints,
      keep=config.ckpt.keep,
      best_mode=config.ckpt.best_mode,
      async_save=config.ckpt.async_save,
      gather=team.gather if team else None,
      files={
        "config.json": self._config_json.encode(),
        "tokenizer.model": self._setup.tokenizer.model_bytes,
      },
    )
    self._parts.callback(self._checkpoints.close)
    self._bad_rows = bad_rows.BadRows(workdir, team, anew=not begun)
    self._parts.callback(self._bad_rows.close)
    self._evaluation = evaluation.Runner(
      self._setup, workdir.predictions, on_bad_row=self._bad_eval_row
    )
    self._feature_cache: feature_cache.FeatureCache | None = None

  def go(self) -> None:
    """From where the run stands to its end; when a stop is requested Left, with all on disk."""
    checking = None
    if self._main and not self._checkpoints.steps():
      checking = process.started(functools.partial(bad_rows.check, self._evaluation))
    state = self._stop.leaving(self._start)
    start = self._start_step
    if start >= self._total:
      self._progress.note(f"the run is complete: {start} of {self._total} steps are done")
    else:
      if not start:
        self._refuse_bad_rows(checking)
      stepper = setups.Stepper(
        self._setup,
        setups.train_step(self._setup, self._optimizer, state),
        setups.train_loader(
          self._setup, self._rows, self._bad_rows.add, known_bad=self._bad_rows.of("")
        ),
        start,
        fill=self._feature_cache.fill if self._feature_cache else None,
        stop=self._stop,
        progress=self._progress,
        team=self._team,
      )
      with contextlib.closing(stepper):
        if not start:
          self._evaluate_start(state, stepper)
        state = self._do_steps(state, stepper)
    self._end(state)

  def _do_steps(self, state: states.TrainState, steps: setups.Stepper) -> states.TrainState:
    """All steps that are left; the order of events at each is that of the module's docstring."""
    finished: _Finished | None = None
    pending: Callable[[], _Finished] | None = None  # Reads the numbers of the step under way.
    self._progress.begin_steps()
    for step in range(self._start_step + 1, self._total + 1):
      self._profile.at(step, state)
      try:
        batch = steps.next(state)
        self._stop.check()
      except (signals.Left, Exception) as e:
        self._rescue(state, pending() if pending else finished, e)
        raise
      if view := self._progress.view:
        view.reached(step, self._total)
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        state, sums = steps.run(state, batch)
      if batch.is_new:
        self._checkpoints.get_ready(state)
      # The step before is read only now that this one is running: no gap on the device.
      if pending:
        pending()
      pending = functools.partial(self._read, step, sums, batch.rows, batch.counts)
      if self._calendar.is_line(step):
        finished, pending = pending(), None
        self._count(finished)
        shown = {name: float(finished.values[name]) for name in _SHOWN}
        rates = self._progress.log(step, shown)
        finished.values["examples_per_second"] = round(rates["examples_per_second"], 2)
        due = self._calendar.evals(step)
        # Several hosts wait for each other in an evaluation: who leaves it then cannot save.
        if self._calendar.is_save(step) or (self._team and due):
          self._save(state, finished)
        results = self._evaluate_after(finished, state, due) if due else {}
        if self._report(step, finished.values, results):
          self._save(state, finished)
        self._checkpoints.check()
    self._profile.at(self._total + 1, state)
    return state

  def _start(self) -> states.TrainState:
    """The state to go on from; opens what depends on its step, and does what that step lacks."""
    went_back = ""
    if self._resume_step and self._main:
      went_back = resume.go_back(self._workdir, self._checkpoints, self._resume_step, self._config)
    state = self._checkpoints.restore(setups.abstract_state(self._setup, self._optimizer))
    facts = self._checkpoints.facts
    start = self._start_step = 0 if state is None else int(state.step)
    agreement.check(self._team, "state", {"step to go on from": start})
    note = self._progress.note
    if went_back:
      note(went_back)
    lines = metrics.read(self._workdir.metrics)
    spent = progress_lib.spent_before(lines, start, facts.get("seconds", {}))
    self._progress.resume(start, self._total, spent)
    lines = [line for line in lines if line["step"] <= start]
    if state is None:
      if self._config.init and self._team:
        agreement.check_weights(self._team, self._setup.init)
      state = setups.initial_state(self._setup, self._optimizer, note)
      setups.warn_of_warmup(self._setup, self._optimizer, self._total)
    else:
      note(f"going on from step {start} of {self._workdir.path}")
      self._checkpoints.take_scores(metrics.best_scores(self._config.ckpt.best, lines))
      self._evaluation.note_baselines(lines)
    if "nonfinite" in facts:
      self._policy.restore(facts["nonfinite"], anew=start == self._resume_step)
    self._row_counts = bad_rows.RowCounts(facts.get("rows", {}), note, self._team)
    self._data = resume.claim(self._config, self._data, self._workdir, step=start, main=self._main)
    note(setups.describe(self._setup, self._total, len(self._rows)))
    length = resume.new_length(self._config, self._data, step=start, path=self._workdir.path)
    if length:
      note(length)
    if self._config.train.cache_image_features:
      self._feature_cache = feature_cache.FeatureCache(self._setup, note)
    last = max((line["step"] for line in lines), default=0)
    self._metrics = metrics.MetricsLog(
      self._workdir,
      resume_step=last if start else -1,
      tensorboard=self._config.log.tensorboard,
      trackers=self._config.log.trackers,
      spent=spent,
      main=self._main,
    )
    self._parts.enter_context(self._metrics)
    self._metrics.text(start, {"config": self._config_json})
    if "line" in facts and self._calendar.is_line(start) and last < start:
      results = self._evaluate(state, start, self._calendar.evals(start))
      self._report(start, metrics.parsed(facts["line"]), results)
    return state

  def _refuse_bad_rows(self, checking: futures.Future[list[bad_rows.Found]] | None) -> None:
    """Reports the bad validation rows that were found; ends the run when they are too many."""
    found: list[bad_rows.Found] = []
    if checking:
      self._stop.leaving(functools.partial(futures.wait, [checking], bad_rows.SECS))
      found = checking.result() if checking.done() else []
    bad_rows.refuse(found, self._config.train.bad_rows, self._bad_eval_row, self._progress.note)

  def _evaluate_start(self, state: states.TrainState, steps: setups.Stepper) -> None:
    """The evaluations before the first step, while it is compiled; writes their line."""
    names = self._calendar.evals(0)
    if not names:
      return
    steps.begin(state)
    results = self._stop.leaving(lambda: self._evaluate(state, 0, names))
    if not any(e.start_limit for e in self._config.evals):
      metrics.check_best_found(self._config, results)
    self._report(0, {}, results)

  def _read(
    self, step: int, sums: Mapping[str, jax.Array], rows: np.ndarray, counts: dict[str, int]
  ) -> _Finished:
    """Waits for a step's numbers; ends the run when too many steps were not finite."""
    numbers = {name: np.asarray(value) for name, value in sums.items()}
    self._policy.take(step, bool(numbers["nonfinite"]), rows)
    more = {"nonfinite_steps": self._policy.count}
    if self._data.changes:
      more["data_changes"] = len(self._data.changes)
    return _Finished(step, metrics.of_step(numbers, rows, more), counts, rows)

  def _count(self, finished: _Finished) -> None:
    """Adds what is of all hosts' rows to a step's line."""
    finished.rows = self._row_counts.upto(finished.step, finished.counts)
    finished.values.update({bad_rows.PREFIX + name: n for name, n in finished.rows.items()})
    if self._team:
      parts = self._team.gather("the rows of a step", finished.batch.tolist())
      finished.values["rows_crc32"] = metrics.rows_crc32(np.concatenate(parts))

  def _evaluate_after(
    self, finished: _Finished, state: states.TrainState, names: list[str]
  ) -> dict[str, float]:
    """The metrics of evaluations; saves the state if they fail or are left."""
    try:
      return self._stop.leaving(lambda: self._evaluate(state, finished.step, names))
    except (signals.Left, Exception) as e:
      self._rescue(state, finished, e)
      raise

  def _rescue(self, state: states.TrainState, finished: _Finished | None, error: Exception) -> None:
    """Saves a finished state because of `error`, after which the run ends; logs if that fails."""
    # A save takes all hosts, which an error of one does not bring together.
    alone = self._team is None or isinstance(error, signals.Left)
    if finished is None or finished.step <= self._start_step or not alone:
      return
    self._count(finished)
    try:
      self._save(state, finished)
      self._checkpoints.wait()
    except errors.PaligemmaError as e:
      if isinstance(error, signals.Left):
        raise
      if not isinstance(e, errors.StateError):  # That was logged when the save failed.
        logging.error("%s", e)  # The run ends with the first error.
    else:
      self._progress.note(f"step {finished.step} is saved; a run can go on from there")

  def _save(self, state: states.TrainState, finished: _Finished) -> None:
    facts = {
      "line": metrics.plain(finished.values),
      "rows": finished.rows,
      "nonfinite": self._policy.facts,
      "seconds": self._progress.times(),
    }
    with self._progress.part("save"):
      self._checkpoints.save(state, facts)

  def _end(self, state: states.TrainState) -> None:
    """Writes what a finished run leaves for people; its state is on disk."""
    note = self._progress.note
    shown = {"note": note, "log": self._metrics, "view": self._progress.view}
    with self._progress.part("save"):
      self._checkpoints.wait()
      if self._feature_cache is not None:
        note(self._feature_cache.summary())
      if self._config.ckpt.best:
        note(metrics.best_summary(self._config.ckpt, self._workdir, self._checkpoints.best_step()))
      work = functools.partial(outputs.write, self._setup, state.result, self._workdir)
      self._stop.leaving(functools.partial(work, main=self._main, **shown))
    note(progress_lib.summary(self._progress.times()))

  def _report(self, step: int, values: Mapping[str, Any], results: Mapping[str, float]) -> bool:
    """Writes a step's line, on disk when this returns; whether the step is the best one yet."""
    for line in evaluation.listed(self._config.evals, step, results) if results else ():
      self._progress.note(line)
    self._metrics.write(step, {**values, **results, **self._progress.times()})
    if results:
      self._metrics.predictions(step, self._evaluation.tables)
    if results and (view := self._progress.view):
      with self._progress.part("eval"):
        outputs.show(self._setup, self._workdir, step, view, self._evaluation.rows)
    best = self._config.ckpt.best
    # The initial weights are not saved, so they are not the best step.
    return bool(step and best in results and self._checkpoints.score(step, results[best]))

  def _evaluate(self, state: states.TrainState, step: int, names: list[str]) -> dict[str, float]:
    with self._progress.part("eval"):
      return self._evaluation.metrics(state.result, step, names)

  def _bad_eval_row(self, name: str, row: int, where: str, reason: str) -> None:
    self._bad_rows.add(row, where, reason, evaluator=name)
    self._progress.note(f"  not evaluated by {name}: row {row} ({where}): {reason}")
