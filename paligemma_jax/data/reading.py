"""Reads ahead: slots through Grain's threads and processes, in order, with a watch on stalls."""

from __future__ import annotations

import dataclasses
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from absl import logging

from paligemma_jax.core import errors
from paligemma_jax.data import examples
from paligemma_jax.data import workers as workers_lib

_POLL_SECS = 0.2
_CLOSE_SECS = 5.0
_START_SECS = 60.0  # Worker processes first have to start, which takes longest on a busy machine.
_SAY_SECS = 10.0  # A wait is told of after so long, then after twice as long, and so on.
_FOREVER = sys.maxsize // 2


@dataclasses.dataclass(frozen=True)
class Options:
  """How to read: see `loader.TrainLoader`."""

  num_threads: int
  num_workers: int
  prefetch: int
  stall_secs: float


def read(
  stream: examples.ExampleStream, start_step: int, stop_step: int | None, options: Options
) -> Iterator[list[examples.Example]]:
  """This process's slots of each step from `start_step` to before `stop_step` (None: without end).

  A wait of 10 s is told of, with the row that is waited for.

  Raises:
    StallError: no slot came for `stall_secs`, or a worker process died.
    DataError: a worker process could not begin.
  """
  num = len(stream.share)
  start, stop = start_step * num, _FOREVER if stop_step is None else stop_step * num
  if stop <= start:
    return
  reading = _Reading(stream, start, stop, options)
  try:
    while (group := reading.next_group()) is not None:
      yield group
  finally:
    reading.close()


class _Reading:
  """What the gathering thread and the consumer share, and how long who has waited."""

  def __init__(self, stream: examples.ExampleStream, start: int, stop: int, options: Options):
    self._stream, self._options = stream, options
    self._start, self._stop = start, stop
    self._index = start  # Of the slot that is waited for.
    self._stopped = threading.Event()
    self._stalled = False
    self._last_progress = time.monotonic()
    self._workers = workers_lib.Workers(options.num_workers)
    source = _grain_iterator(stream, start, stop, options, self._workers)
    # One group is being made while one waits here; the rows before them wait in Grain's buffer.
    self._groups: queue.Queue[Any] = queue.Queue(maxsize=1)
    self._thread = threading.Thread(
      target=self._gather, args=(source,), name="batches", daemon=True
    )
    self._thread.start()

  def next_group(self) -> list[examples.Example] | None:
    """The slots of the next step; None after the last."""
    since = time.monotonic()
    say_secs = _SAY_SECS
    self._check_workers()
    while True:
      try:
        item = self._groups.get(timeout=_POLL_SECS)
        break
      except queue.Empty:
        now = time.monotonic()
        self._check_workers()
        self._check_progress(now)
        if now - since > say_secs:
          say_secs *= 2
          logging.warning(
            "waited %.0f s for %s; after train.stall_secs=%g s without a row the run ends",
            now - since,
            self._awaited(),
            self._options.stall_secs,
          )
    if isinstance(item, BaseException):
      self._check_workers()
      if workers_lib.is_death(item):
        self._stalled = True
        raise errors.StallError(f"A worker process of the loader died: {item}") from None
      raise errors.DataError(
        f"The loader failed with {self._options.num_workers} worker processes:"
        f" {type(item).__name__}: {item}"
      ) from item
    return item

  def close(self) -> None:
    """Ends the thread and the workers; what cannot be ended is left behind."""
    self._stopped.set()
    if not self._stalled:
      self._thread.join(timeout=_CLOSE_SECS if self._options.num_workers else _POLL_SECS)
    if self._thread.is_alive() and self._options.num_workers:
      self._workers.kill()  # The thread waits for one that is stuck.
      self._thread.join(timeout=_POLL_SECS if self._stalled else _CLOSE_SECS)
    self._workers.forget()

  def _check_workers(self) -> None:
    dead = self._workers.dead(self._index - self._start, self._stop - self._start)
    if dead:
      self._stalled = True
      raise errors.StallError(
        f"{dead} while {self._row()} was waited for. The kernel kills processes when memory"
        " runs out: fewer train.num_workers or a smaller train.prefetch need less."
      )

  def _check_progress(self, now: float) -> None:
    """Ends the wait when nothing came for too long."""
    limit = self._options.stall_secs
    begun = self._workers.begun()
    if begun is None:
      limit = max(limit, _START_SECS)
    quiet_secs = now - max(self._last_progress, begun or 0.0)
    # It may have hung since before anybody waited for it, while the first step was compiled.
    since = self._workers.since(self._index - self._start, self._index)
    quiet_secs = max(quiet_secs, now - since if since else 0.0)
    if quiet_secs > limit:
      self._stalled = True
      raise errors.StallError(
        f"The loader stalled: no row for {quiet_secs:.0f} s (train.stall_secs is"
        f" {self._options.stall_secs:g}), waiting for {self._awaited()}. Reading that row, or a"
        " row op on it, hangs."
      )

  def _awaited(self) -> str:
    """'row 22 (train.jsonl:23), which worker process 1 (pid 4711) makes'."""
    who = self._workers.name_of(self._index - self._start)
    return f"{self._row()}, which {who} makes" if who else self._row()

  def _row(self) -> str:
    return self._stream.name_of(self._index)

  def _gather(self, source: Any) -> None:
    """Runs in the thread: slots to groups; an exception is handed on in their place."""
    try:
      if self._options.num_workers:
        workers_lib.shield()
      group = []
      while not self._stopped.is_set():
        try:
          group.append(next(source))
        except StopIteration:
          self._put(None)
          return
        self._index += 1
        self._last_progress = time.monotonic()
        self._workers.look()
        if len(group) == len(self._stream.share):
          self._put(group)
          group = []
    except BaseException as e:
      self._put(e)
    finally:
      if hasattr(source, "close"):
        source.close()

  def _put(self, item: Any) -> None:
    while not self._stopped.is_set():
      try:
        self._groups.put(item, timeout=_POLL_SECS)
        return
      except queue.Full:
        self._last_progress = time.monotonic()  # It is the consumer that is slow.


def _grain_iterator(
  stream: examples.ExampleStream,
  start: int,
  stop: int,
  options: Options,
  workers: workers_lib.Workers,
) -> Iterator[examples.Example]:
  import grain  # Takes 0.8 s to import, which is not needed to load a config or a tokenizer.

  ahead = max(options.prefetch * len(stream.share), 1)
  dataset = grain.MapDataset.range(start, stop).map(workers.timed(stream))
  if not options.num_workers:
    buffer = max(ahead, options.num_threads)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(options.num_threads, buffer)))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain hands absl's flags to its workers and insists on this.
  threads = grain.ReadOptions(options.num_threads, options.num_threads)
  processes = grain.MultiprocessingOptions(
    num_workers=options.num_workers,
    per_worker_buffer_size=-(-ahead // options.num_workers),
  )
  return iter(dataset.to_iter_dataset(threads).mp_prefetch(processes, workers.started()))
