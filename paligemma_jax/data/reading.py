"""Reads ahead: examples through threads and worker processes, in order, with a watch on stalls."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any

from absl import flags
from absl import logging

from paligemma_jax.config import config_file
from paligemma_jax.core import errors
from paligemma_jax.data import examples

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
    self._workers = Workers(options.num_workers)
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
      if is_death(item):
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
        shield()
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
  workers: Workers,
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


_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_AT_BYTES = 4096


class Workers:
  """The worker processes of one reading.

  Args:
    num: how many there are; 0 is none, for which nothing is made or watched.
  """

  def __init__(self, num: int):
    self._num = num
    # Not made where nothing starts.
    self._folder = tempfile.TemporaryDirectory(prefix="loader-") if num else None
    self._timed: Timed | None = None
    self._pids: dict[int, int] = {}  # By the number of the worker.
    self._processes: dict[int, Any] = {}  # By pid. Those that ended can no longer be listed.
    self._begun: float | None = None

  def timed(self, make: Callable[[int], Any]) -> Timed:
    """`make`, so that `since` knows of it."""
    self._timed = Timed(make, self._folder.name if self._folder else "")
    return self._timed

  def since(self, position: int, index: int) -> float | None:
    """When a slot was begun (by `time.monotonic`); None when it is not in the making.

    Args:
      position: as which slot it is read.
      index: what its maker calls it.
    """
    if not self._num:
      return self._timed.since(index)
    pid = self._pids.get(position % self._num)
    try:
      with open(os.path.join(self._folder.name, f"at-{pid}"), "rb") as f:
        return dict(json.loads(f.readline(_AT_BYTES))).get(index)
    except (OSError, ValueError):  # It is being written.
      return None

  def started(self) -> Callable[[int, int], None]:
    """What a worker calls first: it leaves its number, and learns where config files lie.

    Specs are pickled by the names of their modules; a config file's is no name that can be
    imported.
    """
    return functools.partial(_begin, self._folder.name, config_file.ran())

  def look(self) -> None:
    """Finds out which processes have started since the last time."""
    if self._folder is None or len(self._pids) == self._num:
      return
    for name in os.listdir(self._folder.name):
      number, _, pid = name.partition("-")
      if number != "at":
        self._pids[int(number)] = int(pid)
    known = set(self._pids.values())
    self._processes |= {p.pid: p for p in multiprocessing.active_children() if p.pid in known}
    if len(self._pids) == self._num:
      self._begun = time.monotonic()

  def begun(self) -> float | None:
    """When the last worker began (by `time.monotonic`); None while some did not; 0 of none."""
    if not self._num:
      return 0.0
    if self._begun is None:
      self.look()
    return self._begun

  def dead(self, position: int, num_slots: int) -> str:
    """'Worker process 1 (pid 4711) of the loader was killed by SIGKILL'; '' when all are well.

    Args:
      position: how many slots have been read.
      num_slots: how many are to be read; a worker that has handed over its own ends by itself.
    """
    self.look()
    for number, pid in sorted(self._pids.items()):
      code = self._exit_code(pid)
      if code and position + (number - position) % self._num < num_slots:
        return f"Worker process {number} (pid {pid}) of the loader {_ending(code)}"
    return ""

  def name_of(self, position: int) -> str:
    """Who makes the slot that is read as number `position`; '' when it is no worker."""
    if not self._num:
      return ""
    number = position % self._num  # Grain deals slots out in turn.
    pid = self._pids.get(number)
    if pid is None:
      return f"worker process {number} (which has not started)"
    gone = " (which has ended)" if self._exit_code(pid) is not None else ""
    return f"worker process {number} (pid {pid}){gone}"

  def kill(self) -> None:
    """Ends those that still live, at once."""
    self.look()
    for process in self._processes.values():
      if process.exitcode is None:
        process.kill()

  def forget(self) -> None:
    """Removes the folder."""
    if self._folder is not None:
      self._folder.cleanup()

  def _exit_code(self, pid: int) -> int | None:
    process = self._processes.get(pid)
    return None if process is None else process.exitcode


class Timed:
  """A slot function that tells which slots are in the making, and since when.

  Args:
    make: index to slot; picklable.
    folder: where a worker process writes it down; '' in the process that asks.
  """

  def __init__(self, make: Callable[[int], Any], folder: str = ""):
    self._make, self._folder = make, folder
    self._began: dict[int, tuple[int, float]] = {}  # By thread.
    self._descriptor = -1

  def __call__(self, index: int) -> Any:
    thread = threading.get_ident()
    self._began[thread] = index, time.monotonic()
    self._write()
    try:
      return self._make(index)
    finally:
      del self._began[thread]
      self._write()

  def since(self, index: int) -> float | None:
    """When this slot was begun (by `time.monotonic`); None when it is not in the making here."""
    return dict(self._began.values()).get(index)

  def __getstate__(self) -> tuple[Any, str]:
    return self._make, self._folder

  def __setstate__(self, state: tuple[Any, str]) -> None:
    self.__init__(*state)

  def _write(self) -> None:
    if not self._folder:
      return
    if self._descriptor < 0:
      self._descriptor = os.open(os.path.join(self._folder, f"at-{os.getpid()}"), _WRITE, 0o600)
    text = json.dumps(list(self._began.values()))
    os.pwrite(self._descriptor, f"{text}\n".encode(), 0)  # What is left behind it is not read.


def shield() -> None:
  """Workers that this thread starts from now on do not hear Ctrl-C.

  In a terminal all processes get it, and it is this one that says when they end. A process begins
  with the signals blocked that are blocked in the thread that starts it.
  """
  resource_tracker.ensure_running()  # When it starts it unblocks them.
  signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))


def is_death(error: BaseException) -> bool:
  """True of what Grain says when a worker ended before it could leave its number."""
  return isinstance(error, RuntimeError) and bool(re.search(r"exit code -?\d+", str(error)))


def _begin(folder: str, config_files: Mapping[str, str], worker: int, num_workers: int) -> None:
  with open(os.path.join(folder, f"{worker}-{os.getpid()}"), "wb"):
    pass
  threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
  config_file.find_again(config_files)


def _end_with_parent() -> None:
  """A worker whose parent was killed would wait for ever for a place to put its row."""
  multiprocessing.parent_process().join()
  os._exit(1)


def _ending(code: int) -> str:
  if code > 0:
    return f"ended with exit code {code}"
  try:
    return f"was killed by {signal.Signals(-code).name}"
  except ValueError:
    return f"was killed by signal {-code}"
