"""POPE: does the model see objects that are not there? (arXiv:2305.10355)"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables


def _bare(text: str) -> str:
  return text.strip().lower()


def _in_sentence(text: str) -> str:
  """What POPE's authors take a sentence for: only its first is read, and any no makes it a no."""
  words = text.partition(".")[0].replace(",", "").split(" ")
  return "no" if {"No", "no", "not"} & set(words) else "yes"


# How a prediction becomes 'yes', 'no' or something else, which is wrong.
WORDINGS: dict[str, Callable[[str], str]] = {"bare": _bare, "sentence": _in_sentence}


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  wording: str = "bare",
) -> tables.Table:
  """What is said and what is true of each row, as 0 or 1; see `polling`."""
  names = ("acc", "valid", "said_yes", "is_yes", "right_yes")
  columns: dict[str, list[float]] = {name: [] for name in names}
  read = errors.pick(WORDINGS, wording, "wording of POPE")
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    said, wanted = read(prediction), _truth(row, truth, i)
    values = (
      said == wanted,
      _bare(prediction) in ("yes", "no"),
      said == "yes",
      wanted == "yes",
      said == wanted == "yes",
    )
    for name, value in zip(names, values, strict=True):
      columns[name].append(float(value))
  return tables.make(columns)


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `polling`."""
  num_right, num_said, num_true = (
    float(table[name].sum()) for name in ("right_yes", "said_yes", "is_yes")
  )
  return {
    "acc": tables.mean(table["acc"]),
    "precision": num_right / max(num_said, 1.0),
    "recall": num_right / max(num_true, 1.0),
    # The harmonic mean of the two, without dividing by nothing.
    "f1": 2 * num_right / max(num_said + num_true, 1.0),
    "yes_share": tables.mean(table["said_yes"]),
    "valid_share": tables.mean(table["valid"]),
    "num": float(len(table["acc"])),
  }


def polling(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  wording: str = "bare",
) -> dict[str, float]:
  """Accuracy, and precision and recall of 'yes'.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`: 'yes' or 'no'.
    truth: the name of that column.
    wording: 'bare' is the reference's: whatever is neither 'yes' nor 'no', whichever case, is
      wrong. 'sentence' is the rule of the benchmark's own script, for models that talk: what has
      'No', 'no' or 'not' for a word before its first full stop is a no, anything else a yes.

  Returns:
    acc: share of right answers.
    precision: share of right ones among the answers 'yes'.
    recall: share of those answered 'yes' among the questions whose truth that is.
    f1: the harmonic mean of these two.
    yes_share, valid_share: share of the answers 'yes', and of those that are a bare yes or no.
    num: rows scored.
  """
  return summary(table(predictions, rows, truth=truth, wording=wording))


@spec.spec
class Pope(base.Evaluator):
  """Accuracy, precision, recall and F1 of 'yes' among the decoded answers; see `polling`."""

  truth: str = "answer"
  wording: str = "bare"

  metric = "pope"

  def __post_init__(self):
    errors.pick(WORDINGS, self.wording, "wording of evals.Pope")

  def columns(self) -> tuple[str, ...]:
    """The column of the true answer."""
    return (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """What is said and what is true of each row."""
    return table([o.text for o in outputs], rows, truth=self.truth, wording=self.wording)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `polling`."""
    return summary(self.table(rows, outputs))


def _truth(row: Mapping[str, Any], name: str, i: int) -> str:
  value = base.column(row, name, i)
  text = value.strip().lower() if isinstance(value, str) else ""
  if text not in ("yes", "no"):
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected 'yes' or 'no'."
    )
  return text
