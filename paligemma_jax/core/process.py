"""This process: threads that nobody waits for, early signals, memory in large pages.

No JAX here: most of it must be done before JAX is imported.
"""

from __future__ import annotations

import functools
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
  """Begins `work` in a thread of its own; the future has what it returns or raises.

  Unlike a pool's, the thread does not keep the process from ending.
  """
  future: futures.Future[T] = futures.Future()

  def run() -> None:
    try:
      future.set_result(work())
    except BaseException as e:  # Raised where the result is asked for.
      future.set_exception(e)

  threading.Thread(target=run, name=_NAME, daemon=True).start()
  return future


def is_at_work() -> bool:
  """Whether such a thread has not come to its end."""
  return any(thread.name == _NAME for thread in threading.enumerate())


_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def hold_signals() -> None:
  """From now on both wait until `listen`, also in a program that takes this one's place."""
  signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def listen_for_signals(end: Callable[[str], None] | None = None) -> None:
  """From now on both end the process with the code of an interrupted run, until others listen.

  Args:
    end: called with the sentence, ends the process; None says it and exits.
  """
  handler = functools.partial(_end, end or _exit)
  for number in _NUMBERS:
    signal.signal(number, handler)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)


def _end(end: Callable[[str], None], number: int, frame: object) -> None:
  del frame
  end(
    f"{signal.Signals(number).name}: ended while no step was under way. The same command goes on"
    " from what is saved."
  )


def _exit(text: str) -> None:
  print(f"error: {text}", file=sys.stderr, flush=True)
  os._exit(os.EX_TEMPFAIL)


_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = "/sys/kernel/mm/transparent_hugepage/enabled"


def use() -> None:
  """Starts this program again, as the same process, with an allocator that asks for huge pages.

  The C library reads that wish when a process begins and never again. Nothing happens where it
  would not help, and where GLIBC_TUNABLES says anything of it: glibc.malloc.hugetlb=0 is a no.
  To be called first, before there are threads, open files or output.
  """
  tunables = os.environ.get(_VARIABLE, "")
  if _TUNABLE in tunables or not sys.executable or not _are_given_on_request():
    return
  wanted = ":".join(part for part in (tunables, f"{_TUNABLE}=1") if part)
  try:
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, _VARIABLE: wanted})
  except OSError:
    return  # Then with small pages.


def _are_given_on_request() -> bool:
  try:
    with open(_KERNEL, encoding="ascii") as f:
      return "[madvise]" in f.read() and os.confstr("CS_GNU_LIBC_VERSION") is not None
  except (OSError, ValueError, AttributeError):  # Another system, or another C library.
    return False
