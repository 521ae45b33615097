"""Work in a thread that nobody has to wait for."""

from __future__ import annotations

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
