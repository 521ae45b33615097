"""When skipped steps, of a loss or gradient not finite, end a run; where to go from there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from paligemma_jax.core import errors

# A loss above so many times the median of those before it is taken for damage. Losses of batches
# differ by less; a learning rate that destroys weights makes it tens of times as high.
_SANE_FACTOR = 2.0


class Policy:
  """Counts skipped steps.

  Args:
    optim: the config section.
    advise: given the first of the steps skipped in a row, says what to do when they end the run.

  Attributes:
    count: skipped steps since the first step of the run.
    facts: what `restore` needs to go on counting, as plain JSON data.
  """

  def __init__(self, optim: Any, total_steps: int, advise: Callable[[int], str]):
    self._advise = advise
    self._in_a_row = optim.nonfinite_in_a_row
    # A share of less than one step still allows one.
    self._budget = max(1, int(optim.nonfinite_share * total_steps))
    self._streak = 0
    self._forgiven = 0
    self.count = 0

  @property
  def facts(self) -> dict[str, int]:
    return {"count": self.count, "streak": self._streak, "forgiven": self._forgiven}

  def restore(self, facts: Mapping[str, int], *, anew: bool) -> None:
    """Resumes from the `facts` of a saved step; `anew` does not count skipped steps before it."""
    self.count = facts["count"]
    self._streak = 0 if anew else facts["streak"]
    self._forgiven = self.count if anew else facts["forgiven"]

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
      step,
      ", ".join(str(int(row)) for row in rows),
    )
    counted = self.count - self._forgiven
    if self._streak >= self._in_a_row or counted > self._budget:
      advice = self._advise(step - self._streak + 1)
      raise errors.NumericsError(
        f"Loss or gradients were not finite at step {step}, {self._streak} times in a row and"
        f" {counted} times in all (optim.nonfinite_in_a_row={self._in_a_row},"
        f" optim.nonfinite_share allows {self._budget}). {advice}"
      )


def advice(lines: Sequence[Mapping[str, Any]], saved: Iterable[int], first: int) -> str:
  """What to do after such an end: the last saved step before the loss went bad, or a new start.

  A state is judged by the loss of the step after it.

  Args:
    lines: of metrics.jsonl.
    saved: steps whose state is on disk.
    first: of the steps in a row whose loss or gradient was not finite.
  """
  losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
  losses = [*(known for known in losses if known[0] < first), (first, math.nan)]
  sane = [step for step in saved if _is_sane(step, losses)]
  look = "Look at the rows listed above, or lower optim.lr"
  if sane:
    loss = next((v for s, v in reversed(losses) if s <= max(sane)), math.nan)
    return (
      "Saved states are finite, but may be damaged by the steps before. The last saved step of"
      f" a sane loss ({loss:.4g}) is step {max(sane)}. {look}, and go on from there with"
      f" --resume_step {max(sane)}; what was written after it is set aside."
    )
  return (
    "Saved states are finite, but none is from before the loss went bad, so going on from them"
    f" does not help. {look}, and start in another --workdir."
  )


def _is_sane(step: int, losses: Sequence[tuple[int, float]]) -> bool:
  """Whether the losses up to the first one after `step` are finite and not far above the others."""
  before = [value for s, value in losses if s <= step]
  after = [value for s, value in losses if s > step][:1]
  if not before or not all(map(math.isfinite, [*before, *after])):
    return False
  # The last ones alone may be high.
  usual = statistics.median(before[: max(1, len(before) // 2)])
  return max(before[-1], *after, usual) <= max(_SANE_FACTOR * usual, usual + 1)
