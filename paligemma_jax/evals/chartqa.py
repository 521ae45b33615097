"""ChartQA: exact match, and the relaxed accuracy that lets numbers be off by a twentieth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import output
from paligemma_jax.evals import tables

_TOLERANCE = 0.05  # arXiv:2203.10244, section 5.1.


def table(
    predictions: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    truth: str = "answer",
    lower: bool = False,
) -> tables.Table:
  """acc and relaxed_acc of each row; see `relaxed_accuracy`."""
  exact, relaxed = [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    said = _plain(prediction, lower)
    wanted = [_plain(answer, lower) for answer in answers]
    exact.append(float(said in wanted))
    relaxed.append(float(any(relaxed_match(said, answer) for answer in wanted)))
  return tables.make({"acc": exact, "relaxed_acc": relaxed})


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `relaxed_accuracy`."""
  means = {name: tables.mean(table[name]) for name in ("acc", "relaxed_acc")}
  return {**means, "num": float(len(table["acc"]))}


def relaxed_accuracy(
    predictions: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    truth: str = "answer",
    lower: bool = False,
) -> dict[str, float]:
  """`acc`, `relaxed_acc` (see `relaxed_match`) and `num`, the rows scored.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`: a text, or a list of texts of which the best one counts.
    truth: the name of that column.
    lower: compare without case.
  """
  return summary(table(predictions, rows, truth=truth, lower=lower))


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

  metric = "chartqa"

  def columns(self) -> tuple[str, ...]:
    """The column of the true answers."""
    return (self.truth,)

  def table(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> tables.Table:
    """The scores of each row."""
    return table([o.text for o in outputs], rows, truth=self.truth, lower=self.lower)

  def score(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
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


def _plain(text: str, lower: bool) -> str:
  return (text.lower() if lower else text).strip()
