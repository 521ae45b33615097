"""The training run: restore or start, batches through the step, metrics, evaluations, saves, end.

The order of events at a step is a contract that exact resume rests on: the state is updated, then
the step's metrics and evaluations are written as one line, and only then is the state saved. What
was written after the newest intact state is cut away when the run goes on from it.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax
import ml_collections
import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.core import units
from paligemma_jax.data import fingerprint
from paligemma_jax.data import loader
from paligemma_jax.running import bad_rows
from paligemma_jax.running import ending
from paligemma_jax.running import evaluation
from paligemma_jax.running import guard
from paligemma_jax.running import metrics as metrics_lib
from paligemma_jax.running import nonfinite
from paligemma_jax.running import progress as progress_lib
from paligemma_jax.running import setup as setups
from paligemma_jax.running import signals
from paligemma_jax.running import tower_cache
from paligemma_jax.running import workdir as workdirs
from paligemma_jax.training import checkpoints
from paligemma_jax.training import loss
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states

_SHOWN = ("loss", "lr")  # In the progress line; everything is in metrics.jsonl.


def train(
    config: ml_collections.ConfigDict, path: str | os.PathLike, *, allow_data_change: bool = False
) -> None:
  """Runs a training from its start, or from its newest intact state, to its end.

  Args:
    config: valid for training (`core.config.validate`).
    path: the workdir.
    allow_data_change: go on although the rows are not those that the run was started with.

  Raises:
    Interrupted: asked to stop; the state is saved.
    ConfigError, DataError, WorkdirError, StateError, NumericsError: as their names say.
  """
  with workdirs.opened(path, main=jax.process_index() == 0) as workdir:
    run = _Run(config, workdir, allow_data_change)
    try:
      run.go()
    finally:
      run.close()


class _Run:
  """One run in one process: its parts, and where it stands."""

  def __init__(
      self, config: ml_collections.ConfigDict, workdir: workdirs.Workdir, allow_data_change: bool
  ):
    self._config = config
    self._workdir = workdir
    self._main = jax.process_index() == 0
    allowed = guard.check_config(config, workdir, allow_data_change=allow_data_change)
    self._rows = config.train.source.open()
    if not len(self._rows):
      raise errors.DataError(f"The training source has no rows: {config.train.source}.")
    self._total = setups.total_steps(config, len(self._rows))
    self._setup = setups.prepare(config)
    self._data = guard.check_data(
        fingerprint.fingerprint(self._rows, config.train.pp, self._setup.tokenizer),
        self._rows,
        self._total,
        workdir,
        duration=config.train.total,
        allowed=allowed,
        allow_data_change=allow_data_change,
    )
    sharding.check_batch(
        config.train.batch_size, self._setup.mesh, accum=config.train.accum, what="train.batch_size"
    )
    self._optimizer = setups.optimizer(self._setup, self._total, len(self._rows))
    self._log_every = self._steps(config.log.every, "log.every")
    self._save_every = self._steps(config.ckpt.every, "ckpt.every")
    self._eval_every = {e.name: self._steps(e.every, f"{e.name}: every") for e in config.evals}
    self._policy = nonfinite.Policy(config.optim, self._total)
    self._checkpoints = checkpoints.Checkpoints(
        workdir.checkpoints,
        keep=config.ckpt.keep,
        best=config.ckpt.best,
        best_mode=config.ckpt.best_mode,
        async_save=config.ckpt.async_save,
        files={
            "config.json": json.dumps(specs.to_json(config.to_dict()), indent=2).encode(),
            "tokenizer.model": self._setup.tokenizer.model_bytes,
        },
    )
    self._bad_rows = bad_rows.BadRows(
        workdir, main=self._main, anew=not guard.is_begun(workdir)
    )
    self._evaluation = evaluation.Runner(
        self._setup, workdir.predictions, on_bad_row=self._bad_eval_row
    )
    self._with_baseline: set[str] = set()
    # These are made when it is known which step the run goes on from.
    self._metrics: metrics_lib.MetricsLog | None = None
    self._progress: progress_lib.Progress | None = None
    self._tower_cache: tower_cache.TowerCache | None = None

  def go(self) -> None:
    """From where the run stands to its end."""
    state, start = self._start()
    if start >= self._total:
      self._progress.note(f"the run is complete: {start} of {self._total} steps are done")
      ending.write(self._setup, self._workdir, main=self._main, note=self._progress.note)
      return
    train_step = setups.train_step(self._setup, self._optimizer, state)
    batches = self._loader().batches(start)
    try:
      with futures.ThreadPoolExecutor(1) as pool:
        first = None
        at_start = [name for name, every in self._eval_every.items() if every and start == 0]
        if at_start:
          first = pool.submit(self._get_ready, train_step, state, batches)
          self._report(0, {}, self._evaluate(state, 0, at_start))
        with signals.StopRequest() as stop:
          state = self._steps_from(state, start, stop, train_step, batches, first)
    finally:
      batches.close()
    self._checkpoints.wait()
    if self._tower_cache is not None:
      self._progress.note(self._tower_cache.summary())
    if self._config.ckpt.export:
      ending.export(self._setup, state.result, self._workdir, note=self._progress.note)
    ending.write(self._setup, self._workdir, main=self._main, note=self._progress.note)

  def close(self) -> None:
    """Lets go of files and threads; safe at any point."""
    self._checkpoints.close()
    self._bad_rows.close()
    if self._metrics is not None:
      self._metrics.close()
    if self._progress is not None:
      self._progress.close()

  def _start(self) -> tuple[states.TrainState, int]:
    """The state to go on from, and its step; opens what depends on that step."""
    target = setups.abstract_state(self._setup, self._optimizer)
    state = self._checkpoints.restore(target)
    start = 0 if state is None else int(state.step)
    self._progress = progress_lib.Progress(
        self._total, batch_size=self._config.train.batch_size, start_step=start, main=self._main
    )
    note = self._progress.note
    if state is None:
      state = setups.initial_state(self._setup, self._optimizer, note)
    else:
      note(f"going on from step {start} of {self._workdir.path}")
      lines = [m for m in metrics_lib.read(self._workdir.metrics) if m["step"] <= start]
      self._policy.count = lines[-1].get("nonfinite_steps", 0) if lines else 0
      seen = {metric for line in lines for metric in line}
      self._with_baseline = {
          name for name in self._eval_every if any(m.startswith(f"{name}/baseline/") for m in seen)
      }
    self._data = guard.claim(
        self._config, self._data, self._workdir, step=start, main=self._main
    )
    note(setups.describe(self._setup, self._total, len(self._rows)))
    length = guard.new_length(self._config, self._data, step=start, path=self._workdir.path)
    if length:
      note(length)
    if self._config.train.img_cache:
      self._tower_cache = tower_cache.TowerCache(self._setup, note)
    self._metrics = metrics_lib.MetricsLog(
        self._workdir,
        resume_step=start if start else -1,
        tensorboard="on" if self._config.log.tensorboard else "off",
        main=self._main,
    )
    return state, start

  def _get_ready(
      self, train_step: Any, state: states.TrainState, batches: Iterator[dict[str, np.ndarray]]
  ) -> dict[str, np.ndarray]:
    """The first batch, and the step compiled for it; both while evaluators are busy."""
    batch = next(batches)
    # What the cache of the tower makes of a batch is not known here. Several processes compile
    # when all of them have come to the step.
    if self._tower_cache is None and jax.process_count() == 1:
      on_device = sharding.put(batch, self._setup.mesh)
      train_step.lower(state, on_device, loss.num_supervised(batch["mask_loss"])).compile()
    return batch

  def _steps_from(
      self,
      state: states.TrainState,
      start: int,
      stop: signals.StopRequest,
      train_step: Any,
      batches: Iterator[dict[str, np.ndarray]],
      first: futures.Future | None,
  ) -> states.TrainState:
    """From step `start` on to the end; `first` gives the batch before all of `batches`."""
    waiting: tuple[int, Mapping[str, jax.Array], np.ndarray] | None = None
    compiled: set[Any] = set()
    for step in range(start + 1, self._total + 1):
      with self._progress.part("data" if first is None else "compile"):
        batch = next(batches) if first is None else first.result()
      first = None
      if self._tower_cache is not None:
        batch = self._tower_cache.fill(batch, state.params)
      num_supervised = loss.num_supervised(
          batch["mask_loss"], num_processes=jax.process_count()
      )
      pictures = batch["image" if self._tower_cache is None else "encoded"]
      program = (num_supervised, batch["text"].shape, pictures.shape)
      on_device = sharding.put(batch, self._setup.mesh)
      with self._progress.part("step" if program in compiled else "compile"):
        state, sums = train_step(state, on_device, num_supervised)
        if program not in compiled:
          # Loading a program from the cache ends with its first step, not before.
          jax.block_until_ready(sums)
          compiled.add(program)
      # The step before is looked at only now that this one is under way: no gap on the device.
      if waiting:
        self._look_at(*waiting)
      waiting = (step, sums, batch["_row"])
      asked = stop.reason(step)
      if not asked and not self._is_due(step):
        continue
      values = self._look_at(*waiting)
      waiting = None
      # A save for which a line would be missing after a crash must not exist: line first.
      results = self._evaluate(state, step, self._due_evals(step))
      self._report(step, values, results)
      if asked or self._is_save(step):
        with self._progress.part("save"):
          self._checkpoints.save(state, results)
      self._checkpoints.check()
      if asked and step < self._total:
        self._checkpoints.wait()
        raise errors.Interrupted(
            f"{asked}: stopped after step {step} of {self._total}, which is saved in"
            f" {self._workdir.checkpoints}. The same command goes on from there."
        )
    return state

  def _look_at(
      self, step: int, sums: Mapping[str, jax.Array], rows: np.ndarray
  ) -> dict[str, Any]:
    """Waits for a step's numbers and judges them; what metrics.jsonl says of the step."""
    values = {name: np.asarray(value) for name, value in sums.items()}
    self._policy.take(step, bool(values["nonfinite"]), rows)
    num_tokens = float(values.pop("num_tokens"))
    return {
        "loss": values["loss"],
        "lr": values["lr"],
        "grad_norm": values["grad_norm"],
        "update_norm": values["update_norm"],
        "token_accuracy": float(values["num_correct"]) / max(num_tokens, 1.0),
        "num_tokens": int(num_tokens),
        "num_rows": int(values["num_rows"]),
        "nonfinite_steps": self._policy.count,
        **self._data.metrics(),
        # Equal for two runs only if they saw the same rows in the same places.
        "rows_crc32": zlib.crc32(np.ascontiguousarray(rows, np.int64).tobytes()),
    }

  def _report(self, step: int, values: Mapping[str, Any], results: Mapping[str, float]) -> None:
    """Writes the step's line, on disk when this returns, and shows it."""
    if not values and not results:
      return
    shown = {name: float(values[name]) for name in _SHOWN if name in values}
    rates = {}
    if step:
      rates = self._progress.log(step, shown)
      rates = {"examples_per_second": round(rates["examples_per_second"], 2)}
    for name in self._eval_every:
      found = [(k, v) for k, v in results.items() if k.startswith(f"{name}/")]
      if found:
        listed = ", ".join(f"{k.removeprefix(f'{name}/')} {v:.4g}" for k, v in found)
        self._progress.note(f"  {name} at step {step}: {listed}")
    self._metrics.add(step, {**values, **results, **rates})
    self._metrics.flush()

  def _evaluate(
      self, state: states.TrainState, step: int, names: list[str]
  ) -> dict[str, float]:
    if not names:
      return {}
    # What needs no model is scored once: with the first evaluation of the run that sees all rows.
    at_start = step == 0
    few = {e.name for e in self._config.evals if at_start and e.start_limit}
    baseline = [n for n in names if n not in self._with_baseline | few]
    self._with_baseline.update(baseline)
    rest = [n for n in names if n not in baseline]
    run = functools.partial(self._evaluation.run, state.result, step, at_start=at_start)
    with self._progress.part("eval"):
      return evaluation.merged({**run(names=baseline, baseline=True), **run(names=rest)})

  def _is_due(self, step: int) -> bool:
    """Whether a line is written at this step."""
    log_now = self._log_every and step % self._log_every == 0
    return bool(
        step == 1 or log_now or self._is_save(step) or self._due_evals(step) or step == self._total
    )

  def _is_save(self, step: int) -> bool:
    return bool(step == self._total or (self._save_every and step % self._save_every == 0))

  def _due_evals(self, step: int) -> list[str]:
    """Evaluators that run after this step; all run at the end."""
    last = step == self._total
    return [n for n, every in self._eval_every.items() if last or (every and step % every == 0)]

  def _loader(self) -> loader.TrainLoader:
    train = self._config.train
    return loader.TrainLoader(
        self._rows,
        train.pp,
        self._setup.tokenizer,
        batch_size=train.batch_size,
        text_len=train.text_len,
        overflow=train.overflow,
        buckets=train.buckets,
        seed=self._config.seed,
        shuffle=train.shuffle,
        bad_rows=train.bad_rows,
        on_bad_row=self._bad_rows.add,
        num_threads=train.num_threads,
        num_workers=train.num_workers,
        stall_secs=train.stall_secs,
        prefetch=train.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        known_bad=sorted(self._bad_rows.known),
    )

  def _bad_eval_row(self, row: int, where: str, reason: str) -> None:
    self._progress.note(f"  not evaluated: row {row} ({where}): {reason}")

  def _steps(self, duration: str, what: str) -> int:
    return units.to_steps(
        duration,
        what,
        batch_size=self._config.train.batch_size,
        num_examples=len(self._rows),
        total_steps=self._total,
    )

