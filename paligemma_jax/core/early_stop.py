"""SIGTERM and Ctrl-C while no step is under way: nothing is lost, and the exit code says so."""

from __future__ import annotations

import os
import signal
import sys

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def hold() -> None:
  """From now on both wait until `listen`, also in a program that takes this one's place."""
  signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def listen() -> None:
  """From now on both end the process with the code of an interrupted run, until others listen."""
  for number in _NUMBERS:
    signal.signal(number, _end)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)


def _end(number: int, frame: object) -> None:
  del frame
  name = signal.Signals(number).name
  print(
      f"error: {name}: ended while no step was under way. The same command goes on from what is"
      " saved.",
      file=sys.stderr, flush=True,
  )
  os._exit(os.EX_TEMPFAIL)
