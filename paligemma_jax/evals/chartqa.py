"""ChartQA: exact match, and the relaxed accuracy that lets numbers be off by a twentieth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables

_METRICS = ("acc", "relaxed_acc")
_TOLERANCE = 0.05  # arXiv:2203.10244, section 5.1.


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  lower: bool = False,
  part: str = "",
) -> tables.Table:
  """acc and relaxed_acc of each row, and again by part; see `relaxed_accuracy`."""
  exact, relaxed = [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    said = _plain(prediction, lower)
    wanted = [_plain(answer, lower) for answer in answers]
    exact.append(float(said in wanted))
    relaxed.append(float(any(relaxed_match(said, answer) for answer in wanted)))
  found = tables.make({"acc": exact, "relaxed_acc": relaxed})
  names = [_part(row, part, i) for i, row in enumerate(rows)] if part else []
  for name in sorted(set(names)):
    of_part = np.array([n == name for n in names])
    for metric in _METRICS:
      found[f"{metric}/{name}"] = np.where(of_part, found[metric], tables.NONE)
  return found


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `relaxed_accuracy`."""
  found = {name: tables.mean(table[name]) for name in _METRICS}
  for metric in _METRICS:
    of_parts = tables.parts(table, metric)
    means = [value for name, value in of_parts.items() if name.startswith(f"{metric}/")]
    found |= of_parts | ({f"{metric}_avg": base.mean(means)} if means else {})
  return {**found, "num": float(len(table["acc"]))}


def relaxed_accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  lower: bool = False,
  part: str = "",
) -> dict[str, float]:
  """`acc`, `relaxed_acc` (see `relaxed_match`) and `num`, the rows scored.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`: a text, or a list of texts of which the best one counts.
    truth: the name of that column.
    lower: compare without case.
    part: the column that says which part of the benchmark a row is of, as 'human' or 'augmented';
      then there are `acc/<part>`, `relaxed_acc/<part>`, `num/<part>`, and the means over parts,
      whatever their sizes: `acc_avg` and `relaxed_acc_avg`, the number that papers print.
  """
  return summary(table(predictions, rows, truth=truth, lower=lower, part=part))


def relaxed_match(prediction: str, truth: str) -> bool:
  """Numbers that differ by at most 5 % of the true one; any other texts must be equal.

  '12%' is the number 0.12. A true number of 0 must be given exactly as it is written.
  """
  wanted = _number(truth)
  said = _number(prediction) if wanted else None
  if wanted and said is not None:
    return abs(said - wanted) / abs(wanted) <= _TOLERANCE
  return prediction == truth


@spec.spec
class ChartQa(base.Evaluator):
  """Exact and relaxed accuracy of the decoded answers to questions about charts."""

  truth: str = "answer"
  lower: bool = False
  part: str = ""

  metric = "chartqa"

  def columns(self) -> tuple[str, ...]:
    """The columns of the true answers and of the part."""
    return (self.truth, self.part) if self.part else (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The scores of each row."""
    options = dict(truth=self.truth, lower=self.lower, part=self.part)
    return table([o.text for o in outputs], rows, **options)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `relaxed_accuracy`."""
    return summary(self.table(rows, outputs))


def _number(text: str) -> float | None:
  """The finite number that the text is, or None."""
  try:
    value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def _part(row: Mapping[str, Any], name: str, i: int) -> str:
  value = base.column(row, name, i)
  if not isinstance(value, str) or not value:
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected the name of a part."
    )
  return value


def _plain(text: str, lower: bool) -> str:
  return (text.lower() if lower else text).strip()
