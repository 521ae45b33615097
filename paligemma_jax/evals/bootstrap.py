"""Confidence intervals of any metric, by drawing the rows anew many times.

    intervals(value_of, num_rows, num_samples=1000) -> {"acc/low": 0.61, "acc/high": 0.66, ...}

`value_of(indices)` gives the metrics of those rows, each as often as it is listed. Of a metric with
a table that is the summary of the rows taken from it; of any other evaluator the score of those
rows (`of_evaluator`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import prng
from paligemma_jax.evals import base

CONFIDENCE = 0.95
# Numbers of rows drawn at once: 8 MB.
_AT_ONCE = 1 << 20

Values = dict[str, float]


def of_evaluator(
  evaluator: base.Evaluator,
  rows: Sequence[base.Row],
  outputs: Sequence[base.Output],
  *,
  seed: int = 0,
) -> Values:
  """`intervals` of what an evaluator scores, from `evaluator.bootstrap` draws of its rows."""
  if evaluator.bootstrap < 1:
    return {}
  if isinstance(evaluator, base.Metric):
    table = evaluator.table(rows, outputs)

    def value_of(indices: Sequence[int]) -> Values:
      return evaluator.summary(base.take(table, np.asarray(indices)))

  else:

    def value_of(indices: Sequence[int]) -> Values:
      return evaluator.score([rows[i] for i in indices], [outputs[i] for i in indices])

  return intervals(value_of, len(rows), num_samples=evaluator.bootstrap, seed=seed)


def intervals(
  value_of: Callable[[Sequence[int]], Values], num_rows: int, *, num_samples: int, seed: int = 0
) -> Values:
  """`<key>/low` and `<key>/high` of each metric: the middle 95 % of its values on drawn rows.

  Counts of rows (`num` and what begins with it) have none. The same arguments give the same result.
  A metric that is the mean of its values on single rows is not computed for each draw: so it costs
  little even where scoring a row is slow.

  Args:
    value_of: metrics of the rows with these numbers; numbers may repeat.
    num_rows: how many rows there are; of fewer than two nothing is said.
    num_samples: how often as many rows are drawn, with replacement.
    seed: of the draws.
  """
  if num_rows < 2 or num_samples < 1:
    return {}
  whole = value_of(range(num_rows))
  keys = [key for key in whole if not _is_count(key)]
  singles = [value_of([i]) for i in range(num_rows)]
  means = [key for key in keys if _is_mean(key, whole, singles)]
  others = [key for key in keys if key not in means]
  per_row = np.array([[single[key] for key in means] for single in singles])
  drawn: dict[str, list[float]] = {key: [] for key in keys}
  for rows in _draws(num_rows, num_samples, seed):
    # One column after the other: rows x columns of all draws would be large.
    for key, column in zip(means, per_row.T, strict=True):
      drawn[key].extend(column[rows].mean(1).tolist())
    for one in rows if others else ():
      values = value_of(one)
      for key in others:
        if key in values:  # A kind of question may be missing in a draw.
          drawn[key].append(values[key])
  result = {}
  for key, values in drawn.items():
    if values:
      low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)).tolist()
      result |= {f"{key}/low": low, f"{key}/high": high}
  return result


def _is_count(key: str) -> bool:
  return any(part == "num" or part.startswith("num_") for part in key.split("/"))


def _is_mean(key: str, whole: Values, singles: Sequence[Values]) -> bool:
  """Whether the metric is the mean over single rows."""
  if not all(key in single for single in singles):
    return False
  mean = math.fsum(single[key] for single in singles) / len(singles)
  return math.isclose(mean, whole[key], rel_tol=1e-9, abs_tol=1e-12)


def _draws(num_rows: int, num_samples: int, seed: int) -> Iterator[np.ndarray]:
  """int64[some, num_rows], the rows of all the samples."""
  rng = prng.generator(seed, num_rows)
  at_once = max(1, _AT_ONCE // num_rows)
  for start in range(0, num_samples, at_once):
    yield rng.integers(num_rows, size=(min(at_once, num_samples - start), num_rows))
