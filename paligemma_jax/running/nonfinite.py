"""When skipped steps, whose loss or gradient was not finite, end a run."""

from __future__ import annotations

from typing import Any

from absl import logging

from paligemma_jax.core import errors


class Policy:
  """Counts skipped steps.

  Args:
    optim: the config section; `nonfinite_in_a_row` and `nonfinite_share` are read.
    total_steps: of the run, which the share is of.

  Attributes:
    count: skipped steps so far; restored from the metrics when a run goes on.
  """

  def __init__(self, optim: Any, total_steps: int):
    self._in_a_row = optim.nonfinite_in_a_row
    # A share so small that it is less than one step still puts up with one.
    self._budget = max(1, int(optim.nonfinite_share * total_steps))
    self._streak = 0
    self.count = 0

  def take(self, step: int, skipped: bool, rows: Any) -> None:
    """Notes whether `step` was skipped; `rows` are the row numbers of its batch.

    Raises:
      NumericsError: too many in a row, or in all.
    """
    if not skipped:
      self._streak = 0
      return
    self._streak += 1
    self.count += 1
    logging.error(
        "step %d skipped: loss or gradient is not finite; the rows of its batch: %s",
        step, ", ".join(str(int(row)) for row in rows),
    )
    if self._streak >= self._in_a_row or self.count > self._budget:
      raise errors.NumericsError(
          f"Loss or gradients were not finite at step {step}, {self._streak} times in a row and"
          f" {self.count} times in all (optim.nonfinite_in_a_row={self._in_a_row},"
          f" optim.nonfinite_share allows {self._budget}). Saved states are from before and finite;"
          " lower optim.lr, or look at the rows listed above."
      )
