"""Scores row by row, from which a metric is summed up: to resample, or to look into.

A metric of this package is two functions: `table(predictions, rows, …)` scores each row by itself,
and `summary(table)` makes the metric's numbers of it. So a confidence interval comes from
summaries of resampled rows, and nothing is scored twice.

    table = vqav2.table(predictions, rows)
    vqav2.summary(table)                                # {"acc": …, "num": …}
    vqav2.summary(tables.take(table, rng.integers(n, size=n)))
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from paligemma_jax.evals import base

# float64[rows] by name; NaN where a row does not count.
Table = dict[str, np.ndarray]

NONE = float("nan")  # The value of a row that does not count.


def make(columns: Mapping[str, Sequence[float]]) -> Table:
  """The columns as arrays."""
  return {name: np.asarray(values, np.float64) for name, values in columns.items()}


def take(table: Mapping[str, np.ndarray], rows: np.ndarray) -> Table:
  """The table of these rows; a row may come several times."""
  return {name: values[rows] for name, values in table.items()}


def counting(values: np.ndarray) -> np.ndarray:
  """The values of the rows that count."""
  return values[~np.isnan(values)]


def mean(values: np.ndarray) -> float:
  """The mean over the rows that count; 0.0 when none does."""
  return base.mean(counting(values).tolist())


def count(values: np.ndarray) -> float:
  """How many rows count."""
  return float(counting(values).size)


def parts(table: Mapping[str, np.ndarray], metric: str) -> dict[str, float]:
  """{'acc/x': mean, 'num/x': how many} of the columns 'acc/x' for which there are rows."""
  found = {}
  for name, values in table.items():
    if name.startswith(f"{metric}/") and count(values):
      found[name] = mean(values)
      found[f"num/{name.removeprefix(f'{metric}/')}"] = count(values)
  return found
