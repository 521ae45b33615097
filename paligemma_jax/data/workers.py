"""The worker processes of one reading: which they are, whether they live, and how they end.

Grain does not say which processes it started, and waits for a stuck or a dead one for ever: one
that is killed while it hands over a row leaves half of it in the pipe. So each worker leaves its
number in a folder when it starts, and is watched from here.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from multiprocessing import resource_tracker
from typing import Any

from paligemma_jax.config import config_file

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
