"""ScienceQA: the letter in 'The answer is A.'"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables

_ANSWER = re.compile(r"the answer is ([a-z])\.")


def table(
  predictions: Sequence[str], rows: Sequence[Mapping[str, Any]], *, truth: str = "answer"
) -> tables.Table:
  """acc and parsefail of each row; see `accuracy`."""
  hits, failures = [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    wanted, said = _true_letter(row, truth, i), letter(prediction)
    hits.append(float(said == wanted))
    failures.append(float(not said))
  return tables.make({"acc": hits, "parsefail": failures})


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `accuracy`."""
  means = {name: tables.mean(table[name]) for name in ("acc", "parsefail")}
  return {**means, "num": float(len(table["acc"]))}


def accuracy(
  predictions: Sequence[str], rows: Sequence[Mapping[str, Any]], *, truth: str = "answer"
) -> dict[str, float]:
  """`acc`, `parsefail` (share of the answers without a letter, which are wrong) and `num`.

  Args:
    predictions: one text per row, as in 'The answer is A.'.
    rows: each has the column `truth`: the letter, or a text like the predictions.
    truth: the name of that column.
  """
  return summary(table(predictions, rows, truth=truth))


def letter(text: str) -> str:
  """The letter, in lower case, of a text that begins with 'The answer is A.'; else ''."""
  found = _ANSWER.match(text.lower())
  return found[1] if found else ""


@spec.spec
class ScienceQa(base.Evaluator):
  """Share of right letters among the decoded answers."""

  truth: str = "answer"

  metric = "science_qa"

  def columns(self) -> tuple[str, ...]:
    """The column of the true answer."""
    return (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The scores of each row."""
    return table([o.text for o in outputs], rows, truth=self.truth)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `accuracy`."""
    return summary(self.table(rows, outputs))


def _true_letter(row: Mapping[str, Any], name: str, i: int) -> str:
  value = base.column(row, name, i)
  text = value.strip().lower() if isinstance(value, str) else ""
  found = text if re.fullmatch("[a-z]", text) else letter(text)
  if not found:
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected a letter, or a text"
      " such as 'The answer is A.'."
    )
  return found
