"""Stop requests: SIGTERM, Ctrl-C or a preemption ends the run once a finished step is saved."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

from absl import logging

from paligemma_jax.core import process
from paligemma_jax.multihost import hosts
from paligemma_jax.trainer import preemption

T = TypeVar("T")

_POLL_SECS = 0.1


class Left(Exception):
  """A stop was requested; what was waited for is left running."""


class StopRequest:
  """While it is entered, the first SIGTERM or Ctrl-C requests a stop; a second ends the process.

  A thread handles signals, so that they work while the main thread is in the compiler or waits for
  a device. Entered outside the main thread, it handles none: Python does not allow it.

  Several hosts stop at the same place in the order of events, whichever of them got the signal.
  """

  def __init__(self, team: hosts.Team | None = None):
    self._team = team
    self._asked, self._had_signal = "", False
    self._before: dict[int, Any] = {}
    self._ends: tuple[socket.socket, socket.socket] | None = None
    self._fd_before = -1

  def __enter__(self) -> StopRequest:
    if threading.current_thread() is not threading.main_thread():
      return self
    self._ends = received, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    self._fd_before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    self._listener = threading.Thread(
      target=self._listen, args=(received,), name="signals", daemon=True
    )
    self._listener.start()
    for number in (signal.SIGTERM, signal.SIGINT):
      # Without a handler they would end the process; the thread reads them.
      self._before[number] = signal.signal(number, lambda number, frame: None)
    preemption.watch(self.ask)
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
    """The signal or the notice that asked, '' as long as there was none."""
    return self._asked or (self._team.asked if self._team else "")

  def ask(self, why: str) -> None:
    """Requests a stop, from any thread; `why` is the name of a signal or of a notice."""
    if self._asked:
      return
    self._asked = why
    logging.warning("%s: stopping as soon as the step under way is saved", why)
    if self._team:
      self._team.ask_stop(why)

  def check(self) -> None:
    """Called where a run may end; all hosts call it in the same order.

    Raises:
      Left: a stop was requested.
    """
    if self._team.stop_here() if self._team else self._asked:
      raise Left

  def result(self, future: futures.Future[T]) -> T:
    """Waits for the result, or until a stop is requested.

    Several hosts may need each other for the result: they leave only if all of them will stop at
    the next place where they may.

    Raises:
      Left: a stop was requested before the result was there.
    """
    while not future.done():
      if self._team.stops_next() if self._team else self._asked:
        raise Left
      futures.wait([future], timeout=_POLL_SECS)
    return future.result()

  def leaving(self, work: Callable[[], T]) -> T:
    """What `work` returns; it runs in a thread, which is left running when a stop is requested.

    Raises:
      Left: a stop was requested before `work` was done.
    """
    return self.result(process.started(work))

  def _listen(self, received: socket.socket) -> None:
    while data := received.recv(64):
      for number in data:
        if number in (signal.SIGTERM, signal.SIGINT):
          self._take(number)

  def _take(self, number: int) -> None:
    name = signal.Signals(number).name
    # A preemption is noticed before its SIGTERM comes, which is the first signal nevertheless.
    if not self._had_signal:
      self._had_signal = True
      self.ask(name)
      return
    text = f"{name} once more: ended at once."
    print(f"error: {text}", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
      child.kill()
    if self._team:
      self._team.leave(128 + number, text)
    os._exit(128 + number)
