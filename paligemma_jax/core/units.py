"""Converts durations, such as "10%", "2 epochs" and "200 steps", into steps."""

from __future__ import annotations

import math
import re

from paligemma_jax.core import errors

_FORMS = "'200 steps', '3 epochs', '5000 examples', '10%', 'end', or '' for never"
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*(%|steps?|epochs?|examples?)\s*")


def parse(text: str | int, what: str) -> tuple[float, str]:
  """(number, unit) with a unit of 'steps', 'epochs', 'examples', '%'; 'end' is 100 %, '' is 0.

  Raises:
    ConfigError: the text is no duration; `what` is the config key to name.
  """
  if text == "" or text is None:
    return 0.0, "steps"
  if text == "end":
    return 100.0, "%"
  if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
    return float(text), "steps"
  match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
  if not match or math.isinf(float(match[1])):
    raise errors.ConfigError(f"{what}: {text!r} is not a duration; write {_FORMS}.")
  number, unit = float(match[1]), match[2]
  return number, unit if unit == "%" or unit.endswith("s") else unit + "s"


def to_steps(
  text: str | int, what: str, *, batch_size: int, num_examples: int = 0, total_steps: int = 0
) -> int:
  """A duration in steps: 0 for never, else at least 1.

  Rounds to the nearest step, a half to the even one, as the reference does: the learning rate of
  each step depends on their number.

  Args:
    text: the duration; an int is steps.
    what: the config key to name in errors.
    batch_size: examples per step over all hosts.
    num_examples: of one epoch; needed for epochs.
    total_steps: of the run; needed for percentages.

  Raises:
    ConfigError: no duration, or a unit whose base is unknown.
  """
  number, unit = parse(text, what)
  if number == 0:
    return 0
  if unit == "steps":
    if number != int(number):
      raise errors.ConfigError(f"{what}: {text!r} is not a whole number of steps.")
    return int(number)
  if unit == "%":
    if not total_steps:
      raise errors.ConfigError(
        f"{what}: {text!r} is a share of the run, whose length is unknown here."
      )
    return max(1, round(number / 100 * total_steps))
  if unit == "epochs" and not num_examples:
    raise errors.ConfigError(f"{what}: {text!r} needs a source with a known number of rows.")
  if unit == "epochs":
    return max(1, round(number * (num_examples / batch_size)))
  return max(1, round(number / batch_size))
