"""SIGTERM and Ctrl-C while no step is under way: nothing is lost, and the exit code says so."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def hold() -> None:
  """From now on both wait until `listen`, also in a program that takes this one's place."""
  signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def listen(end: Callable[[str], None] | None = None) -> None:
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
