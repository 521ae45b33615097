"""Batches onto the device and through the training step: one compiled program per batch shape."""

from __future__ import annotations

import contextlib
import functools
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from paligemma_jax.core import process
from paligemma_jax.data import loader
from paligemma_jax.trainer import feature_cache
from paligemma_jax.trainer import progress as progress_lib
from paligemma_jax.trainer import setup as setups
from paligemma_jax.trainer import signals
from paligemma_jax.training import loss
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states


class Ready(NamedTuple):
  """A batch on the device and the program that takes it.

  rows: int64[B], what is in it.
  counts: of the loader, up to this batch.
  is_new: this is the program's first batch.
  """

  on_device: dict[str, jax.Array]
  program: Any
  rows: np.ndarray
  counts: dict[str, int]
  is_new: bool


class Stepper:
  """The steps of one run, from a step on.

  Args:
    train_step: as `setups.train_step` makes it.
    train_loader: of the run's batches.
    start_step: the first batch is that of the step after it.
    cache: of image features, where the run keeps them.
  """

  def __init__(
    self,
    setup: setups.Setup,
    train_step: Any,
    train_loader: loader.TrainLoader,
    start_step: int,
    *,
    cache: feature_cache.FeatureCache | None,
    stop: signals.StopRequest,
    progress: progress_lib.Progress,
  ):
    self._setup, self._train_step, self._loader = setup, train_step, train_loader
    self._batches = train_loader.batches(start_step)
    self._cache, self._stop, self._progress = cache, stop, progress
    self._programs: dict[Any, Any] = {}
    self._first: futures.Future | None = None

  def begin(self, state: states.TrainState) -> None:
    """Reads the first batch and compiles its program in a thread."""
    self._first = process.started(functools.partial(self._make_first, state))

  def next(self, state: states.TrainState) -> Ready:
    """The next batch.

    Raises:
      signals.Left: a stop was requested.
    """
    program, first = None, self._first
    self._first = None
    with self._progress.part("data" if first is None else "compile"):
      if first is None:
        batch = self._stop.leaving(lambda: next(self._batches))
      else:
        batch, program = self._stop.result(first)
    counts = dict(self._loader.counts)
    if self._cache is not None:
      batch = self._cache.fill(batch, state.params)
    num_supervised = loss.num_supervised(batch["mask_loss"], num_processes=jax.process_count())
    images = batch["image" if self._cache is None else "encoded"]
    key = (num_supervised, batch["text"].shape, images.shape)
    on_device = sharding.put(batch, self._setup.mesh)
    is_new = key not in self._programs
    if is_new:
      with self._progress.part("compile"):
        self._programs[key] = program or self._stop.leaving(
          lambda: self._train_step.lower(state, on_device, num_supervised).compile()
        )
    return Ready(on_device, self._programs[key], batch["_row"], counts, is_new)

  def run(
    self, state: states.TrainState, batch: Ready
  ) -> tuple[states.TrainState, dict[str, jax.Array]]:
    """Starts the step, which donates `state`; its numbers are there when it is done."""
    with self._progress.part("compile" if batch.is_new else "step"):
      state, sums = batch.program(state, batch.on_device)
      if batch.is_new:
        # Loading a program from the cache ends with its first step, not before.
        jax.block_until_ready(sums)
    return state, sums

  def close(self) -> None:
    """Ends the reading."""
    with contextlib.suppress(ValueError):  # A thread that was left may be running it.
      self._batches.close()

  def _make_first(self, state: states.TrainState) -> tuple[loader.Batch, Any]:
    batch = next(self._batches)
    # With a feature cache the batch is not known here. Several processes compile together, when
    # all of them have reached the step.
    if self._cache is not None or jax.process_count() > 1:
      return batch, None
    on_device = sharding.put(batch, self._setup.mesh)
    num_supervised = loss.num_supervised(batch["mask_loss"])
    return batch, self._train_step.lower(state, on_device, num_supervised).compile()
