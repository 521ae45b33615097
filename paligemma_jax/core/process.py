"""This process: background threads, early signals and huge pages, all before JAX is imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

T = TypeVar("T")

_NAME = "background"


def started(work: Callable[[], T]) -> futures.Future[T]:
  """Runs `work` in a daemon thread, which does not keep the process from ending."""
  future: futures.Future[T] = futures.Future()

  def run() -> None:
    try:
      future.set_result(work())
    except BaseException as e:  # It is raised where the result is read.
      future.set_exception(e)

  threading.Thread(target=run, name=_NAME, daemon=True).start()
  return future


def is_at_work() -> bool:
  """Whether such a thread is running."""
  return any(thread.name == _NAME for thread in threading.enumerate())


_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def hold_signals() -> None:
  """Blocks SIGTERM and SIGINT until `listen_for_signals`, also across execve."""
  signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def listen_for_signals(end: Callable[[str], None] | None = None) -> None:
  """Lets both signals end the process with the exit code of an interrupted run.

  `end` is called with the message and ends the process; None prints the message and exits.
  """

  def handler(number: int, _: object) -> None:
    why = "ended while no step was under way. The same command goes on from what is saved."
    text = f"{signal.Signals(number).name}: {why}"
    if end:
      end(text)
    else:
      print(f"error: {text}", file=sys.stderr, flush=True)
      os._exit(os.EX_TEMPFAIL)

  for number in _NUMBERS:
    signal.signal(number, handler)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)


_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = "/sys/kernel/mm/transparent_hugepage/enabled"


def use_huge_pages() -> None:
  """Restarts this program in the same process, with an allocator that asks for huge pages.

  The C library reads GLIBC_TUNABLES only when a process starts. Nothing happens where huge pages
  are not given on request, or where GLIBC_TUNABLES sets glibc.malloc.hugetlb; 0 switches it off.
  It must be called before there are threads, open files or output.
  """
  tunables = os.environ.get(_VARIABLE, "")
  if _TUNABLE in tunables or not sys.executable or not _are_given_on_request():
    return
  wanted = ":".join(part for part in (tunables, f"{_TUNABLE}=1") if part)
  try:
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, _VARIABLE: wanted})
  except OSError:
    return  # It goes on with small pages.


def _are_given_on_request() -> bool:
  try:
    with open(_KERNEL, encoding="ascii") as f:
      return "[madvise]" in f.read() and os.confstr("CS_GNU_LIBC_VERSION") is not None
  except (OSError, ValueError, AttributeError):  # Another system, or another C library.
    return False
