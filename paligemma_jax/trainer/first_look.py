"""Validation rows looked at before the first step: a run should not learn at its end what is bad.

Rows are read, headers of images too, and texts measured; no image is decoded. Of large sets only as
many rows as fit the time, spread over the whole set.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.data import examples
from paligemma_jax.trainer import evaluation

SECS = 1.0
_NUM_SHOWN = 5
_GOLDEN = (math.sqrt(5) - 1) / 2

BadRow = tuple[int, str, str]  # Number, file and line, reason.


@dataclasses.dataclass(frozen=True)
class Found:
  """What was seen of the rows of evaluators with the same source, ops and limits.

  names: of the evaluators.
  num_looked, num_rows: rows looked at, of those that are evaluated.
  bad: in the order of the source.
  """

  names: tuple[str, ...]
  num_looked: int
  num_rows: int
  bad: tuple[BadRow, ...]


def look(runner: evaluation.Runner, *, secs: float = SECS) -> list[Found]:
  """Looks at the rows of all evaluators of a run, for not much longer than `secs` in all.

  Raises:
    ConfigError: a source cannot be opened.
  """
  setup = runner.setup
  groups: dict[int, list[str]] = {}
  kinds: list[tuple[examples.ExampleMaker, int]] = []
  for evaluator in setup.config.evals:
    rows = runner.rows(evaluator.source)
    make_example = examples.ExampleMaker(
      rows,
      tuple(evaluator.pp),
      setup.tokenizer,
      evaluator.encoding,
      evaluator.text_len,
      evaluator.overflow,
      setup.config.seed,
    )
    num_rows = min(len(rows), evaluator.limit) if evaluator.limit else len(rows)
    if (make_example, num_rows) not in kinds:
      kinds.append((make_example, num_rows))
    groups.setdefault(kinds.index((make_example, num_rows)), []).append(evaluator.name)
  end = time.monotonic() + secs
  found = []
  for i, (make_example, num_rows) in enumerate(kinds):
    share_secs = (end - time.monotonic()) / (len(kinds) - i)
    num_looked, bad = _look(make_example, num_rows, share_secs)
    found.append(Found(tuple(groups[i]), num_looked, num_rows, tuple(sorted(bad))))
  return found


def judge(
  found: Sequence[Found],
  budget: int,
  on_bad_row: Callable[[str, int, str, str], None],
  note: Callable[[str], None],
) -> None:
  """Says what was looked at, and reports bad rows.

  Args:
    on_bad_row: called for each, with the evaluator's name before it.
    note: writes a line into the log.

  Raises:
    DataError: an evaluator has more of them than `budget`.
  """
  if found:
    note(_summary(found))
  for one in found:
    for name in one.names if one.bad else ():
      for row in one.bad:
        on_bad_row(name, *row)
      _check_budget(name, one.bad, budget)


def _summary(found: Sequence[Found]) -> str:
  """One line on what was looked at."""
  said = (f"{', '.join(f.names)}: {f.num_looked} of {f.num_rows}" for f in found)
  return f"rows looked at before the first step: {'; '.join(said)}"


def _check_budget(name: str, bad: Sequence[BadRow], budget: int) -> None:
  if len(bad) > budget:
    listed = "".join(f"\n  {where}: {reason}" for _, where, reason in bad[:_NUM_SHOWN])
    more = f"\n  and {len(bad) - _NUM_SHOWN} more" if len(bad) > _NUM_SHOWN else ""
    raise errors.DataError(
      f"evaluator {name!r} would find {len(bad)} bad rows, bad_rows allows {budget}; mend or"
      f" remove them, or raise bad_rows to go on without them:{listed}{more}"
    )


def _look(
  make_example: examples.ExampleMaker, num_rows: int, secs: float
) -> tuple[int, list[BadRow]]:
  end = time.monotonic() + secs
  bad, num_looked = [], 0
  for row in _spread(num_rows):
    if num_looked and time.monotonic() > end:
      break
    num_looked += 1
    if reason := make_example.glance(row):
      bad.append((row, protocols.where(make_example.rows, row), reason))
  return num_looked, bad


def _spread(num_rows: int) -> Iterator[int]:
  """All rows once; wherever one stops, those before lie spread over all."""
  stride = max(1, round(num_rows * _GOLDEN))
  while math.gcd(stride, num_rows) > 1:
    stride += 1
  return ((i * stride) % num_rows for i in range(num_rows))
