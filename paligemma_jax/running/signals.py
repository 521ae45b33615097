"""Being asked to stop: SIGTERM or Ctrl-C ends the run as soon as a finished step is saved."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

import jax
from absl import logging
from jax.experimental import multihost_utils

from paligemma_jax.core import background

T = TypeVar("T")

_POLL_SECS = 0.1


class Left(Exception):
  """A stop was asked for while something was waited for, which is left to itself."""


class StopRequest:
  """While it is entered, the first SIGTERM or Ctrl-C only asks; a second one ends the process.

  Signals are taken by a thread, so that they are heard while the main thread is in a library: in
  the compiler, or waiting for a device. Outside the main thread, where Python lets nobody listen
  to signals, there is nothing to be heard.

  Attributes:
    asked: the name of the signal, '' as long as there was none; can be looked at at any moment.
  """

  def __init__(self):
    self.asked = ""
    self._before: dict[int, object] = {}
    self._ends: tuple[socket.socket, socket.socket] | None = None
    self._listener: threading.Thread | None = None
    self._fd_before = -1

  def __enter__(self) -> StopRequest:
    if threading.current_thread() is not threading.main_thread():
      return self
    self._ends = socket.socketpair()
    self._ends[1].setblocking(False)
    self._fd_before = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
    self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
    self._listener.start()
    for number in (signal.SIGTERM, signal.SIGINT):
      # With several processes JAX's own handler of SIGTERM spreads the word; it must stay.
      if jax.process_count() == 1 or number == signal.SIGINT:
        self._before[number] = signal.signal(number, _heard_elsewhere)
    return self

  def __exit__(self, *_) -> None:
    if self._ends is None:
      return
    for number, handler in self._before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._fd_before)
    self._ends[1].close()  # The listener reads the end of it, and ends.
    self._listener.join()
    self._ends[0].close()

  def reason(self, step: int) -> str:
    """The name of the signal when the run must stop after `step`, else ''.

    With several processes all of them get the same answer, whichever was asked.
    """
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      return "SIGTERM"
    return self.asked

  def result(self, future: futures.Future[T]) -> T:
    """Waits for the result, but not longer than until a stop is asked.

    Several processes, which wait for each other in what they do, wait for the result in any case.

    Raises:
      Left: a stop is asked, and the result is not there.
    """
    while not future.done():
      if self.asked and jax.process_count() == 1:
        raise Left
      futures.wait([future], timeout=_POLL_SECS)
    return future.result()

  def leaving(self, work: Callable[[], T]) -> T:
    """What `work` returns. It runs in a thread, which is left to itself when a stop is asked.

    Raises:
      Left: a stop is asked, and `work` is not done.
    """
    return self.result(background.started(work))

  def _listen(self) -> None:
    while data := self._ends[0].recv(64):
      for number in data:
        if number in (signal.SIGTERM, signal.SIGINT):
          self._take(number)

  def _take(self, number: int) -> None:
    name = signal.Signals(number).name
    if not self.asked:
      self.asked = name
      logging.warning("%s: stopping as soon as the step under way is saved", name)
      return
    print(f"error: {name} once more: ended at once.", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
      child.kill()
    os._exit(128 + number)


def _heard_elsewhere(number: int, frame: object) -> None:
  """The handler of signals that a thread hears: without one, they would end the process."""
