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

from absl import logging

from paligemma_jax.core import process
from paligemma_jax.multihost import hosts

T = TypeVar("T")

_POLL_SECS = 0.1


class Left(Exception):
  """A stop was asked for while something was waited for, which is left to itself."""


class StopRequest:
  """While it is entered, the first SIGTERM or Ctrl-C only asks; a second one ends the process.

  Signals are taken by a thread, so that they are heard while the main thread is in a library: in
  the compiler, or waiting for a device. Outside the main thread, where Python lets nobody listen
  to signals, there is nothing to be heard.

  Several hosts stop at the same place in the order of events, whichever of them was asked.

  Args:
    team: the hosts of the run; None for one alone.
  """

  def __init__(self, team: hosts.Team | None = None):
    self._team = team
    self._asked = ""
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

  @property
  def asked(self) -> str:
    """The name of the signal, '' as long as there was none; can be looked at at any moment."""
    return self._asked or (self._team.asked if self._team else "")

  def check(self) -> None:
    """A place at which a run may end: all finished steps can be saved, and nothing is under way.

    All hosts come to such places in the same order.

    Raises:
      Left: a stop is asked.
    """
    if self._team.stop_here() if self._team else self._asked:
      raise Left

  def result(self, future: futures.Future[T]) -> T:
    """Waits for the result, but not longer than until a stop is asked.

    With several hosts, which may need each other for what they do, it is waited for unless all of
    them stop at the next place at which they may.

    Raises:
      Left: a stop is asked, and the result is not there.
    """
    while not future.done():
      if self._team.stops_next() if self._team else self._asked:
        raise Left
      futures.wait([future], timeout=_POLL_SECS)
    return future.result()

  def leaving(self, work: Callable[[], T]) -> T:
    """What `work` returns. It runs in a thread, which is left to itself when a stop is asked.

    Raises:
      Left: a stop is asked, and `work` is not done.
    """
    return self.result(process.started(work))

  def _listen(self) -> None:
    while data := self._ends[0].recv(64):
      for number in data:
        if number in (signal.SIGTERM, signal.SIGINT):
          self._take(number)

  def _take(self, number: int) -> None:
    name = signal.Signals(number).name
    if not self._asked:
      self._asked = name
      logging.warning("%s: stopping as soon as the step under way is saved", name)
      if self._team:
        self._team.ask_stop(name)
      return
    text = f"{name} once more: ended at once."
    print(f"error: {text}", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
      child.kill()
    if self._team:
      self._team.leave(128 + number, text)
    os._exit(128 + number)


def _heard_elsewhere(number: int, frame: object) -> None:
  """The handler of signals that a thread hears: without one, they would end the process."""
