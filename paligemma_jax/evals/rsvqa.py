"""RSVQA: accuracy in all, and averaged over the types of questions (arXiv:2003.07333)."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables
from paligemma_jax.evals import vqa

# Questions answered by a number or a range of numbers; some works, PaliGemma's too, leave them out.
_NUMERIC = ("area", "count")


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answers",
  question_type: str = "question_type",
  lower: bool = False,
) -> tables.Table:
  """acc and acc_any of each row, acc_any again by type of question; see `accuracy`."""
  scores = vqa.vqa_table(predictions, rows, truth=truth, lower=lower)
  kinds = [_kind(row, question_type, i) for i, row in enumerate(rows)]
  found = {"acc": scores["acc"], "acc_any": scores["acc_any"]}
  for kind in sorted(set(kinds)):
    of_kind = np.array([k == kind for k in kinds])
    found[f"acc/{kind}"] = np.where(of_kind, scores["acc_any"], tables.NONE)
  return found


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `accuracy`."""
  by_kind = tables.parts(table, "acc")
  kinds = {name: value for name, value in by_kind.items() if name.startswith("acc/")}
  plain = [v for name, v in kinds.items() if name.removeprefix("acc/") not in _NUMERIC]
  return {
    "acc": tables.mean(table["acc"]),
    "acc_any": tables.mean(table["acc_any"]),
    "acc_avg": base.mean(kinds.values()),
    "acc_avg_nonum": base.mean(plain),
    **by_kind,
    "num": float(len(table["acc"])),
  }


def accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answers",
  question_type: str = "question_type",
  lower: bool = False,
) -> dict[str, float]:
  """The accuracies of RSVQA.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`, a text or a list of texts, and `question_type`, a text such
      as 'presence', 'comp', 'rural_urban', 'count' or 'area'.
    truth, question_type: the names of those columns.
    lower: compare without case.

  Returns:
    acc: as in `vqa_accuracy`; with a list of one answer a right one counts a third.
    acc_any: share of right answers, what the literature calls overall accuracy.
    acc/<type>, num/<type>: the same by type of question, and how many there are.
    acc_avg: mean of the acc/<type>, the average accuracy; what PaliGemma's papers print.
    acc_avg_nonum: the same without the types 'count' and 'area'.
    num: rows scored.
  """
  options = dict(truth=truth, question_type=question_type, lower=lower)
  return summary(table(predictions, rows, **options))


@spec.spec
class Rsvqa(base.Evaluator):
  """Accuracy of the decoded answers in all and by type of question."""

  truth: str = "answers"
  question_type: str = "question_type"
  lower: bool = False

  metric = "rsvqa"

  def columns(self) -> tuple[str, ...]:
    """The columns of the true answers and of the question's type."""
    return (self.truth, self.question_type)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The scores of each row."""
    options = dict(truth=self.truth, question_type=self.question_type, lower=self.lower)
    return table([o.text for o in outputs], rows, **options)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `accuracy`."""
    return summary(self.table(rows, outputs))


def _kind(row: Mapping[str, Any], name: str, i: int) -> str:
  value = base.column(row, name, i)
  if not isinstance(value, str) or not value:
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected a type of question"
      " such as 'presence'."
    )
  return value
