"""Counting: TallyQA's simple and complex questions, and CountBenchQA."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables

_LARGEST = 15  # TallyQA's largest count; others have larger ones, which are one group.
_WORDS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
  " sixteen seventeen eighteen nineteen twenty"
).split()
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_WORDS)}


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  simple: str = "issimple",
) -> tables.Table:
  """acc of each row, the same again by kind of question and by count; see `accuracy`."""
  hits, groups = [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    wanted = _true_count(row, truth, i)
    hits.append(float(in_digits(prediction) == wanted))
    groups.append((_kind(row, simple, i), _group(wanted)))
  columns = {"acc": hits}
  counts = [f"acc/count_{i}" for i in range(_LARGEST + 1)] + [f"acc/count_over_{_LARGEST}"]
  for name in ("acc/simple", "acc/complex", *counts):
    columns[name] = [h if name in g else tables.NONE for h, g in zip(hits, groups, strict=True)]
  return tables.make(columns)


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `accuracy`."""
  acc = {"acc": tables.mean(table["acc"])}
  return acc | tables.parts(table, "acc") | {"num": float(len(table["acc"]))}


def accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  simple: str = "issimple",
) -> dict[str, float]:
  """Share of right counts, 'two' and '2' being the same.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`, a whole number or a text, and `simple`: 1 for a simple
      question, 0 for a complex one, -1 where that is not known.
    truth, simple: the names of those columns; without kinds of questions, as in CountBenchQA,
      `simple` is ''.

  Returns:
    acc: share of all rows.
    acc/simple, acc/complex: by kind of question.
    acc/count_0 … acc/count_15, acc/count_over_15: by true count.
    num, num/…: how many rows; a group without any is left out.
  """
  return summary(table(predictions, rows, truth=truth, simple=simple))


def in_digits(text: str) -> str:
  """A number word up to twenty, and 'none', as digits; any other text as it is."""
  text = text.strip()
  return _DIGITS.get(text.lower(), text)


@spec.spec
class TallyQa(base.Evaluator):
  """Share of right counts among the decoded answers, by kind of question and by count."""

  truth: str = "answer"
  simple: str = "issimple"

  metric = "tallyqa"

  def columns(self) -> tuple[str, ...]:
    """The columns of the true count and of the kind of question."""
    return (self.truth, self.simple) if self.simple else (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The score of each row."""
    return table([o.text for o in outputs], rows, truth=self.truth, simple=self.simple)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `accuracy`."""
    return summary(self.table(rows, outputs))


def _true_count(row: Mapping[str, Any], name: str, i: int) -> str:
  value = base.column(row, name, i)
  if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
    return str(value)
  if isinstance(value, str):
    return in_digits(value)
  raise errors.DataError(
    f"Row {i} of those to score: column {name!r} holds {value!r}; expected a count, as a whole"
    " number or a text."
  )


def _kind(row: Mapping[str, Any], name: str, i: int) -> str:
  """The column of the metric that the question belongs to, or ''."""
  if not name:
    return ""
  value = base.column(row, name, i)
  if not isinstance(value, (int, np.integer)) or value not in (-1, 0, 1):
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected 1 (simple), 0"
      " (complex) or -1 (not known). Without such a column set simple=''."
    )
  return {1: "acc/simple", 0: "acc/complex", -1: ""}[int(value)]


def _group(count: str) -> str:
  """The column of the metric that the true count belongs to, or ''."""
  if not count.isdecimal():
    return ""
  return f"acc/count_{int(count)}" if int(count) <= _LARGEST else f"acc/count_over_{_LARGEST}"
