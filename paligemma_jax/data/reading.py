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
  """How to read."""

  num_threads: int = 2  # That read and decode (in each worker, if there are workers); 0 is none.
  num_workers: int = 0  # Processes that read and decode; 0 starts fastest.
  prefetch: int = 2  # Batches read ahead.
  stall_secs: float = 60.0  # Without a row; then an error that names the row ends the run.


def read(
  make_example: examples.ExampleMaker,
  rows_of_step: Callable[[int], list[tuple[int, int]]],
  share: range,
  start_step: int,
  stop_step: int | None,
  options: Options,
) -> Iterator[list[examples.Example]]:
  """This process's examples of each step from `start_step` to before `stop_step` (None: endless).

  A wait of 10 s is logged, with the row that is waited for.

  Args:
    rows_of_step: step -> the (epoch, row) at each place of the global batch; row -1: none.
    share: the places of the global batch that this process reads.

  Raises:
    StallError: no example came for `stall_secs`, or a worker process died.
    DataError: a worker process could not start.
  """
  start = start_step * len(share)
  stop = _FOREVER if stop_step is None else stop_step * len(share)
  if stop <= start:
    return
  workers = _Workers(options.num_workers, start, stop) if options.num_workers else None
  make = _Make(make_example, rows_of_step, share, workers.folder.name if workers else "")
  reading = _Reading(make, workers, start, stop, options)
  try:
    while (group := reading.next_group()) is not None:
      yield group
  finally:
    reading.close()


class _Reading:
  """A thread that gathers examples into groups of one step, and what its consumer waits for."""

  def __init__(
    self, make: _Make, workers: _Workers | None, start: int, stop: int, options: Options
  ):
    self._make, self._workers, self._options = make, workers, options
    self._index = start  # Of the example that is waited for.
    self._stopped = threading.Event()
    self._stalled = False
    self._last_progress = time.monotonic()
    # One group is being made while one waits here; earlier examples wait in Grain's buffer.
    self._groups: queue.Queue[Any] = queue.Queue(maxsize=1)
    source = self._examples(start, stop)
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
    self._workers.folder.cleanup()

  def _check_workers(self) -> None:
    dead = self._workers.dead(self._index) if self._workers else ""
    if dead:
      self._stalled = True
      raise errors.StallError(
        f"{dead} while {self._make.name_of(self._index)} was waited for. The kernel kills processes"
        " when memory runs out: fewer train.num_workers or a smaller train.prefetch need less."
      )

  def _check_progress(self, now: float) -> None:
    """Ends the wait when nothing came for too long."""
    limit, started = self._options.stall_secs, 0.0
    since = self._make.since(self._index)
    if self._workers:
      started = self._workers.started_at()
      limit = limit if started else max(limit, _START_SECS)
      since = self._workers.since(self._index)
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
    row = self._make.name_of(self._index)
    return f"{row}, which {self._workers.name_of(self._index)} makes" if self._workers else row

  def _gather(self, source: Any) -> None:
    """Runs in the thread: examples to groups; an exception is handed on in their place."""
    try:
      if self._workers:
        # Workers that this thread starts ignore Ctrl-C, which a terminal sends to all: this process
        # ends them. A process starts with the blocked signals of the thread that starts it.
        resource_tracker.ensure_running()  # When it starts it unblocks them.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
      group = []
      while not self._stopped.is_set():
        example = next(source, None)
        if example is None:
          self._put(None)
          return
        group.append(example)
        self._index += 1
        self._last_progress = time.monotonic()
        if self._workers:
          self._workers.find()
        if len(group) == len(self._make.share):
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

  def _examples(self, start: int, stop: int) -> Iterator[examples.Example]:
    import grain  # Takes 0.8 s to import, which is not needed to load a config or a tokenizer.

    num_threads, num_workers = self._options.num_threads, self._options.num_workers
    ahead = max(self._options.prefetch * len(self._make.share), 1)
    dataset = grain.MapDataset.range(start, stop).map(self._make)
    if self._workers is None:
      threads = grain.ReadOptions(num_threads, max(ahead, num_threads))
      return iter(dataset.to_iter_dataset(threads))
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain hands absl's flags to its workers and insists on this.
    threads = grain.ReadOptions(num_threads, num_threads)
    processes = grain.MultiprocessingOptions(num_workers, -(-ahead // num_workers))
    begin = functools.partial(_begin, self._workers.folder.name, config_file.ran())
    return iter(dataset.to_iter_dataset(threads).mp_prefetch(processes, begin))


class _Workers:
  """The worker processes of one reading.

  Attributes:
    folder: where each leaves a file with its number and pid, and what it works on.
  """

  def __init__(self, num: int, start: int, stop: int):
    self._num, self._start, self._stop = num, start, stop
    self.folder = tempfile.TemporaryDirectory(prefix="loader-")
    self._pids: dict[int, int] = {}  # By the number of the worker.
    self._processes: dict[int, Any] = {}  # By pid. Those that ended can no longer be listed.
    self._started = 0.0

  def since(self, index: int) -> float | None:
    """When an example was begun (by `time.monotonic`); None when none works on it."""
    pid = self._pids.get(self._number(index))
    try:
      with open(os.path.join(self.folder.name, f"at-{pid}"), "rb") as f:
        return dict(json.loads(f.readline(_AT_BYTES))).get(index)
    except (OSError, ValueError):  # It is being written.
      return None

  def find(self) -> None:
    """Finds the processes that have started since the last time."""
    if len(self._pids) == self._num:
      return
    for name in os.listdir(self.folder.name):
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

  def dead(self, index: int) -> str:
    """'Worker process 1 (pid 4711) of the loader was killed by SIGKILL'; '' when all are well."""
    self.find()
    for number, pid in sorted(self._pids.items()):
      code = self._exit_code(pid)
      # A worker that has handed over its own ends by itself.
      if code and index + (number - self._number(index)) % self._num < self._stop:
        return f"Worker process {number} (pid {pid}) of the loader {_ending(code)}"
    return ""

  def name_of(self, index: int) -> str:
    """The worker that makes this example."""
    number = self._number(index)
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

  def _number(self, index: int) -> int:
    return (index - self._start) % self._num  # Grain deals examples out in turn.

  def _exit_code(self, pid: int) -> int | None:
    process = self._processes.get(pid)
    return None if process is None else process.exitcode


_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_AT_BYTES = 4096


class _Make:
  """Makes this process's examples, by a running index; records which, and since when. Picklable.

  Args:
    make_example, rows_of_step, share: as in `read`.
    folder: where a worker process writes the record; '' when none does.
  """

  def __init__(self, make_example, rows_of_step, share: range, folder: str):
    self._arguments = make_example, rows_of_step, share, folder
    self._make_example, self._rows_of_step, self.share, self._folder = self._arguments
    self._began: dict[int, tuple[int, float]] = {}  # By thread.
    self._descriptor = -1

  def __call__(self, index: int) -> examples.Example:
    """The example at `index` = step * len(share) + position in the share."""
    thread = threading.get_ident()
    self._began[thread] = index, time.monotonic()
    if self._folder:
      self._write()
    try:
      epoch, row = self._row_at(index)
      return examples.Example(-1) if row < 0 else self._make_example(epoch, row)
    finally:
      del self._began[thread]
      if self._folder:
        self._write()

  def __reduce__(self) -> Any:
    return _Make, self._arguments

  def name_of(self, index: int) -> str:
    """'row 22 (train.jsonl:23)', for messages."""
    _, row = self._row_at(index)
    return "the end of the rows" if row < 0 else examples.name_of(self._make_example.rows, row)

  def since(self, index: int) -> float | None:
    """When this example was begun (by `time.monotonic`); None when it is not in the making here."""
    return dict(self._began.values()).get(index)

  def _row_at(self, index: int) -> tuple[int, int]:
    step, position = divmod(index, len(self.share))
    return self._rows_of_step(step)[self.share[position]]

  def _write(self) -> None:
    if self._descriptor < 0:
      self._descriptor = os.open(os.path.join(self._folder, f"at-{os.getpid()}"), _WRITE, 0o600)
    text = json.dumps(list(self._began.values()))
    os.pwrite(self._descriptor, f"{text}\n".encode(), 0)  # What is left behind it is not read.


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
  names = {one.value: one.name for one in signal.Signals}
  return f"was killed by {names.get(-code, f'signal {-code}')}"
