"""Reads ahead: slots through Grain's threads and processes, in order, with a watch on stalls."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from absl import flags

from paligemma_jax.core import errors
from paligemma_jax.data import examples

_POLL_SECS = 0.2
_CLOSE_SECS = 5.0
_START_SECS = 60.0
_FOREVER = sys.maxsize // 2


@dataclasses.dataclass(frozen=True)
class Options:
  """How to read: see `loader.TrainLoader`."""

  num_threads: int
  num_workers: int
  prefetch: int
  stall_secs: float


@dataclasses.dataclass(frozen=True, repr=False)  # Grain asks for it often; all rows are in it.
class _Flat:
  """The slot function over one running index: step · share + position in the share."""

  slot_at: Callable[[int, int], examples.Slot]
  share: range

  def __call__(self, index: int) -> examples.Slot:
    step, position = divmod(index, len(self.share))
    return self.slot_at(step, self.share[position])


def read(
    slot_at: Callable[[int, int], examples.Slot],
    start_step: int,
    stop_step: int | None,
    share: range,
    options: Options,
) -> Iterator[list[examples.Slot]]:
  """The slots `share` of each step from `start_step` to before `stop_step` (None: without end).

  Raises:
    DataError: no slot came for `stall_secs`, or a worker process died.
  """
  stop = _FOREVER if stop_step is None else stop_step * len(share)
  if stop <= start_step * len(share):
    return
  state = _State(options.num_workers)
  workers = _Workers()
  flat = _Flat(slot_at, share)
  source = _grain_iterator(flat, start_step * len(share), stop, share, options, workers)
  # One group is being made while one waits here; the rows before them wait in Grain's buffer.
  groups: queue.Queue[Any] = queue.Queue(maxsize=1)
  thread = threading.Thread(
      target=_gather, args=(source, len(share), groups, state), name="batches", daemon=True
  )
  thread.start()
  try:
    while (group := _get(groups, state, options)) is not None:
      yield group
  finally:
    state.stopped.set()
    thread.join(timeout=_CLOSE_SECS if options.num_workers else _POLL_SECS)
    if thread.is_alive() and options.num_workers:
      workers.kill()  # The thread waits for one that is stuck.
      thread.join(timeout=_CLOSE_SECS)
    workers.forget()


class _State:
  """What the gathering thread and the consumer share."""

  def __init__(self, num_workers: int):
    self.stopped = threading.Event()
    # Worker processes first have to start, which takes longest on a busy machine.
    self.last_progress = time.monotonic() + (_START_SECS if num_workers else 0)


class _Workers:
  """The worker processes of one reading: each leaves its number in a folder when it starts.

  Grain does not say which processes it started, and waits for a stuck one for ever.
  """

  def __init__(self):
    self._folder: tempfile.TemporaryDirectory | None = None  # Not made where nothing starts.

  def started(self) -> Callable[[int, int], None]:
    """What a worker calls first."""
    self._folder = tempfile.TemporaryDirectory(prefix="loader-")
    return functools.partial(_leave_number, self._folder.name)

  def kill(self) -> None:
    assert self._folder is not None  # Threads alone are not killed.
    numbers = {int(name) for name in os.listdir(self._folder.name)}
    for process in multiprocessing.active_children():
      if process.pid in numbers:
        process.kill()

  def forget(self) -> None:
    if self._folder is not None:
      self._folder.cleanup()


def _leave_number(folder: str, worker: int, num_workers: int) -> None:
  with open(os.path.join(folder, str(os.getpid())), "wb"):
    pass


def _gather(source: Any, size: int, groups: queue.Queue, state: _State) -> None:
  """Runs in the thread: slots to groups of `size`; an exception is handed on in their place."""
  try:
    group = []
    while not state.stopped.is_set():
      try:
        group.append(next(source))
      except StopIteration:
        _put(groups, None, state)
        return
      state.last_progress = time.monotonic()
      if len(group) == size:
        _put(groups, group, state)
        group = []
  except BaseException as e:
    _put(groups, e, state)
  finally:
    if hasattr(source, "close"):
      source.close()


def _put(groups: queue.Queue, item: Any, state: _State) -> None:
  while not state.stopped.is_set():
    try:
      groups.put(item, timeout=_POLL_SECS)
      return
    except queue.Full:
      state.last_progress = time.monotonic()  # It is the consumer that is slow.


def _get(groups: queue.Queue, state: _State, options: Options) -> list[examples.Slot] | None:
  while True:
    try:
      item = groups.get(timeout=_POLL_SECS)
      break
    except queue.Empty:
      quiet_secs = time.monotonic() - state.last_progress
      if quiet_secs > options.stall_secs:
        raise errors.DataError(
            f"The loader stalled: no row for {quiet_secs:.0f} s with {options.num_workers} worker"
            f" processes and {options.num_threads} threads. A row op or the file system hangs."
        ) from None
  if isinstance(item, BaseException):
    raise errors.DataError(
        f"The loader failed with {options.num_workers} worker processes: {type(item).__name__}:"
        f" {item}"
    ) from item
  return item


def _grain_iterator(
    slot_at: _Flat, start: int, stop: int, share: range, options: Options, workers: _Workers
) -> Iterator[examples.Slot]:
  import grain  # Takes 0.8 s to import, which is not needed to load a config or a tokenizer.

  ahead = max(options.prefetch * len(share), 1)
  slots = grain.MapDataset.range(start, stop).map(slot_at)
  if not options.num_workers:
    buffer = max(ahead, options.num_threads)
    return iter(slots.to_iter_dataset(grain.ReadOptions(options.num_threads, buffer)))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain hands absl's flags to its workers and insists on this.
  threads = grain.ReadOptions(options.num_threads, options.num_threads)
  processes = grain.MultiprocessingOptions(
      num_workers=options.num_workers,
      per_worker_buffer_size=-(-ahead // options.num_workers),
  )
  return iter(slots.to_iter_dataset(threads).mp_prefetch(processes, workers.started()))
