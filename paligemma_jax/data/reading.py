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
_SAY_SECS = 10.0  # A wait is logged after so long, then after twice as long, and so on.
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
  """This process's examples of each step from `start_step` to before `stop_step` (None: endless).

  A wait of 10 s is logged, with the row that is waited for.

  Raises:
    StallError: no example came for `stall_secs`, or a worker process died.
    DataError: a worker process could not start.
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
  """A thread that gathers examples into groups of one step, and what its consumer waits for."""

  def __init__(self, stream: examples.ExampleStream, start: int, stop: int, options: Options):
    self._stream, self._options = stream, options
    self._start, self._stop = start, stop
    self._index = start  # Of the example that is waited for.
    self._stopped = threading.Event()
    self._stalled = False
    self._last_progress = time.monotonic()
    self._workers = _Workers(options.num_workers) if options.num_workers else None
    self._make = _Timed(stream, self._workers.folder if self._workers else "")
    source = self._examples()
    # One group is being made while one waits here; earlier examples wait in Grain's buffer.
    self._groups: queue.Queue[Any] = queue.Queue(maxsize=1)
    self._thread = threading.Thread(
      target=self._gather, args=(source,), name="batches", daemon=True
    )
    self._thread.start()

  def next_group(self) -> list[examples.Example] | None:
    """The examples of the next step; None after the last."""
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
      if isinstance(item, RuntimeError) and re.search(r"exit code -?\d+", str(item)):
        self._stalled = True  # Grain's words for a worker that ended before it left its number.
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
    if self._workers is None:
      return
    if self._thread.is_alive():
      self._workers.kill()  # The thread waits for one that is stuck.
      self._thread.join(timeout=_POLL_SECS if self._stalled else _CLOSE_SECS)
    self._workers.remove_folder()

  def _check_workers(self) -> None:
    if self._workers is None:
      return
    dead = self._workers.dead(self._index - self._start, self._stop - self._start)
    if dead:
      self._stalled = True
      raise errors.StallError(
        f"{dead} while {self._row()} was waited for. The kernel kills processes when memory"
        " runs out: fewer train.num_workers or a smaller train.prefetch need less."
      )

  def _check_progress(self, now: float) -> None:
    """Ends the wait when nothing came for too long."""
    limit, started = self._options.stall_secs, 0.0
    since = self._make.since(self._index)
    if self._workers is not None:
      started = self._workers.started_at()
      if not started:
        limit = max(limit, _START_SECS)
      since = self._workers.since(self._index - self._start, self._index)
    # The row may have hung before it was waited for, while the first step was compiled.
    quiet_secs = max(now - max(self._last_progress, started), now - since if since else 0.0)
    if quiet_secs > limit:
      self._stalled = True
      raise errors.StallError(
        f"The loader stalled: no row for {quiet_secs:.0f} s (train.stall_secs is"
        f" {self._options.stall_secs:g}), waiting for {self._awaited()}. Reading that row, or a"
        " row op on it, hangs."
      )

  def _awaited(self) -> str:
    """'row 22 (train.jsonl:23), which worker process 1 (pid 4711) makes'."""
    if self._workers is None:
      return self._row()
    return f"{self._row()}, which {self._workers.name_of(self._index - self._start)} makes"

  def _row(self) -> str:
    return self._stream.name_of(self._index)

  def _gather(self, source: Any) -> None:
    """Runs in the thread: examples to groups; an exception is handed on in their place."""
    try:
      if self._workers is not None:
        _block_interrupts()
      group = []
      while not self._stopped.is_set():
        try:
          group.append(next(source))
        except StopIteration:
          self._put(None)
          return
        self._index += 1
        self._last_progress = time.monotonic()
        if self._workers is not None:
          self._workers.find()
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

  def _examples(self) -> Iterator[examples.Example]:
    import grain  # Takes 0.8 s to import, which is not needed to load a config or a tokenizer.

    options = self._options
    ahead = max(options.prefetch * len(self._stream.share), 1)
    dataset = grain.MapDataset.range(self._start, self._stop).map(self._make)
    if self._workers is None:
      buffer = max(ahead, options.num_threads)
      return iter(dataset.to_iter_dataset(grain.ReadOptions(options.num_threads, buffer)))
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain hands absl's flags to its workers and insists on this.
    threads = grain.ReadOptions(options.num_threads, options.num_threads)
    processes = grain.MultiprocessingOptions(
      num_workers=options.num_workers,
      per_worker_buffer_size=-(-ahead // options.num_workers),
    )
    begin = functools.partial(_begin, self._workers.folder, config_file.ran())
    return iter(dataset.to_iter_dataset(threads).mp_prefetch(processes, begin))


_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_AT_BYTES = 4096


class _Workers:
  """The worker processes of one reading.

  Attributes:
    folder: where each leaves a file with its number and pid, and what it works on.
  """

  def __init__(self, num: int):
    self._num = num
    self._temporary = tempfile.TemporaryDirectory(prefix="loader-")
    self.folder = self._temporary.name
    self._pids: dict[int, int] = {}  # By the number of the worker.
    self._processes: dict[int, Any] = {}  # By pid. Those that ended can no longer be listed.
    self._started = 0.0

  def since(self, position: int, index: int) -> float | None:
    """When an example was begun (by `time.monotonic`); None when none works on it.

    Args:
      position: the example's place in this reading.
      index: what the maker calls it.
    """
    pid = self._pids.get(position % self._num)
    try:
      with open(os.path.join(self.folder, f"at-{pid}"), "rb") as f:
        return dict(json.loads(f.readline(_AT_BYTES))).get(index)
    except (OSError, ValueError):  # It is being written.
      return None

  def find(self) -> None:
    """Finds the processes that have started since the last time."""
    if len(self._pids) == self._num:
      return
    for name in os.listdir(self.folder):
      number, _, pid = name.partition("-")
      if number != "at":
        self._pids[int(number)] = int(pid)
    known = set(self._pids.values())
    self._processes |= {p.pid: p for p in multiprocessing.active_children() if p.pid in known}
    if len(self._pids) == self._num:
      self._started = time.monotonic()

  def started_at(self) -> float:
    """When the last worker started (by `time.monotonic`); 0 while some have not."""
    self.find()
    return self._started

  def dead(self, position: int, num_examples: int) -> str:
    """'Worker process 1 (pid 4711) of the loader was killed by SIGKILL'; '' when all are well.

    Args:
      position: how many examples have been read.
      num_examples: how many are to be read; a worker that has handed over its own ends by itself.
    """
    self.find()
    for number, pid in sorted(self._pids.items()):
      code = self._exit_code(pid)
      if code and position + (number - position) % self._num < num_examples:
        return f"Worker process {number} (pid {pid}) of the loader {_ending(code)}"
    return ""

  def name_of(self, position: int) -> str:
    """The worker that makes the example at this place in the reading."""
    number = position % self._num  # Grain deals examples out in turn.
    pid = self._pids.get(number)
    if pid is None:
      return f"worker process {number} (which has not started)"
    gone = " (which has ended)" if self._exit_code(pid) is not None else ""
    return f"worker process {number} (pid {pid}){gone}"

  def kill(self) -> None:
    """Ends those that still live, at once."""
    self.find()
    for process in self._processes.values():
      if process.exitcode is None:
        process.kill()

  def remove_folder(self) -> None:
    self._temporary.cleanup()

  def _exit_code(self, pid: int) -> int | None:
    process = self._processes.get(pid)
    return None if process is None else process.exitcode


class _Timed:
  """`make` that records which examples are in the making, and since when. Picklable.

  Args:
    make: index to example; picklable.
    folder: where a worker process writes the record; '' when none does.
  """

  def __init__(self, make: Callable[[int], Any], folder: str):
    self._make, self._folder = make, folder
    self._began: dict[int, tuple[int, float]] = {}  # By thread.
    self._descriptor = -1

  def __call__(self, index: int) -> Any:
    thread = threading.get_ident()
    self._began[thread] = index, time.monotonic()
    if self._folder:
      self._write()
    try:
      return self._make(index)
    finally:
      del self._began[thread]
      if self._folder:
        self._write()

  def __reduce__(self) -> Any:
    return _Timed, (self._make, self._folder)

  def since(self, index: int) -> float | None:
    """When this example was begun (by `time.monotonic`); None when it is not in the making here."""
    return dict(self._began.values()).get(index)

  def _write(self) -> None:
    if self._descriptor < 0:
      self._descriptor = os.open(os.path.join(self._folder, f"at-{os.getpid()}"), _WRITE, 0o600)
    text = json.dumps(list(self._began.values()))
    os.pwrite(self._descriptor, f"{text}\n".encode(), 0)  # What is left behind it is not read.


def _block_interrupts() -> None:
  """Workers that this thread starts from now on ignore Ctrl-C, which a terminal sends to all.

  This process ends them. A process starts with the blocked signals of the thread that starts it.
  """
  resource_tracker.ensure_running()  # When it starts it unblocks them.
  signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))


def _begin(folder: str, config_files: Mapping[str, str], worker: int, num_workers: int) -> None:
  """Runs first in a worker: it leaves its number and pid, and learns where config files lie.

  Specs are pickled by the names of their modules; a config file's is no name that can be imported.
  """
  with open(os.path.join(folder, f"{worker}-{os.getpid()}"), "wb"):
    pass
  threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
  config_file.find_again(config_files)


def _end_with_parent() -> None:
  """A worker whose parent was killed would wait for ever for a place to put its row."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)


def _ending(code: int) -> str:
  if code > 0:
    return f"ended with exit code {code}"
  try:
    return f"was killed by {signal.Signals(-code).name}"
  except ValueError:
    return f"was killed by signal {-code}"
