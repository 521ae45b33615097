"""Being asked to stop: SIGTERM or Ctrl-C ends the run at the next step boundary, saved."""

from __future__ import annotations

import signal
from types import FrameType

import jax
from absl import logging
from jax.experimental import multihost_utils


class StopRequest:
  """While it is entered, the first SIGTERM or Ctrl-C only asks; a second Ctrl-C interrupts at once.

  With several processes all of them agree on the step to stop at, whichever was asked.
  """

  def __init__(self):
    self._asked = ""
    self._before: dict[int, object] = {}

  def __enter__(self) -> StopRequest:
    for number in (signal.SIGTERM, signal.SIGINT):
      # With several processes JAX's own handler of SIGTERM spreads the word; it must stay.
      if jax.process_count() == 1 or number == signal.SIGINT:
        self._before[number] = signal.signal(number, self._take)
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def reason(self, step: int) -> str:
    """The name of the signal when the run must stop after `step`, else ''."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      return "SIGTERM"
    return self._asked

  def _take(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._asked == "SIGINT" == signal.Signals(number).name:
      signal.signal(signal.SIGINT, signal.default_int_handler)
      raise KeyboardInterrupt
    self._asked = signal.Signals(number).name
    logging.warning("%s: stopping after this step; the state will be saved", self._asked)
