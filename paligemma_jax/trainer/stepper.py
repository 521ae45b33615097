"""Batches through the training step, one program per shape; the policy for non-finite steps."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from paligemma_jax.core import errors
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


# A loss above so many times the median of those before it is taken for damage. Losses of batches
# differ by less; a learning rate that destroys weights makes it tens of times as high.
_SANE_FACTOR = 2.0


class Policy:
  """Counts skipped steps.

  Args:
    optim: the config section; `nonfinite_in_a_row` and `nonfinite_share` are read.
    total_steps: of the run, which the share is of.
    advise: given the first of the steps skipped in a row, says what to do when they end the run.

  Attributes:
    count: skipped steps since the first step of the run.
    facts: what `restore` needs to go on counting, as plain JSON data.
  """

  def __init__(self, optim: Any, total_steps: int, advise: Callable[[int], str]):
    self._advise = advise
    self._in_a_row = optim.nonfinite_in_a_row
    # A share of less than one step still allows one.
    self._budget = max(1, int(optim.nonfinite_share * total_steps))
    self._streak = 0
    self._forgiven = 0
    self.count = 0

  @property
  def facts(self) -> dict[str, int]:
    return {"count": self.count, "streak": self._streak, "forgiven": self._forgiven}

  def restore(self, facts: Mapping[str, int], *, anew: bool) -> None:
    """Resumes from the `facts` of a saved step; `anew` does not count skipped steps before it."""
    self.count = facts["count"]
    self._streak = 0 if anew else facts["streak"]
    self._forgiven = self.count if anew else facts["forgiven"]

  def take(self, step: int, skipped: bool, rows: Any) -> None:
    """Notes whether `step` was skipped; `rows` are the row numbers of its batch.

    Raises:
      NumericsError: too many in a row, or in all.
    """
    if not skipped:
      self._streak = 0
      return
    self._streak += 1
    self.count += 1
    logging.error(
      "step %d skipped: loss or gradient is not finite; the rows of its batch: %s",
      step,
      ", ".join(str(int(row)) for row in rows),
    )
    counted = self.count - self._forgiven
    if self._streak >= self._in_a_row or counted > self._budget:
      advice = self._advise(step - self._streak + 1)
      raise errors.NumericsError(
        f"Loss or gradients were not finite at step {step}, {self._streak} times in a row and"
        f" {counted} times in all (optim.nonfinite_in_a_row={self._in_a_row},"
        f" optim.nonfinite_share allows {self._budget}). {advice}"
      )


def advice(lines: Sequence[Mapping[str, Any]], saved: Iterable[int], first: int) -> str:
  """What to do after such an end: the last saved step before the loss went bad, or a new start.

  A state is judged by the loss of the step after it.

  Args:
    lines: of metrics.jsonl.
    saved: steps whose state is on disk.
    first: of the steps in a row whose loss or gradient was not finite.
  """
  losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
  losses = [*(known for known in losses if known[0] < first), (first, math.nan)]
  sane = [step for step in saved if _is_sane(step, losses)]
  look = "Look at the rows listed above, or lower optim.lr"
  if sane:
    loss = next((v for s, v in reversed(losses) if s <= max(sane)), math.nan)
    return (
      "Saved states are finite, but may be damaged by the steps before. The last saved step of"
      f" a sane loss ({loss:.4g}) is step {max(sane)}. {look}, and go on from there with"
      f" --resume_step {max(sane)}; what was written after it is set aside."
    )
  return (
    "Saved states are finite, but none is from before the loss went bad, so going on from them"
    f" does not help. {look}, and start in another --workdir."
  )


def _is_sane(step: int, losses: Sequence[tuple[int, float]]) -> bool:
  """Whether the losses up to the first one after `step` are finite and not far above the others."""
  before = [value for s, value in losses if s <= step]
  after = [value for s, value in losses if s > step][:1]
  if not before or not all(map(math.isfinite, [*before, *after])):
    return False
  # The last ones alone may be high.
  usual = statistics.median(before[: max(1, len(before) // 2)])
  return max(before[-1], *after, usual) <= max(_SANE_FACTOR * usual, usual + 1)
