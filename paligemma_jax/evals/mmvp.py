"""MMVP: one question about two images that look alike to CLIP; both must be answered rightly."""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables
from paligemma_jax.evals import vqav2


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  pair: str = "pair",
) -> tables.Table:
  """acc_single of each row; acc of each whole pair, at the first of its rows; see `accuracy`."""
  single: list[float] = []
  pairs: dict[Hashable, list[int]] = {}
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    single.append(float(_plain(prediction) in {_plain(answer) for answer in answers}))
    pairs.setdefault(_name_of(row, pair, i), []).append(i)
  paired = [tables.NONE] * len(single)
  for members in pairs.values():
    if len(members) > 1:
      paired[members[0]] = min(single[i] for i in members)
  return tables.make({"acc": paired, "acc_single": single})


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `accuracy`."""
  return {
    "acc": tables.mean(table["acc"]),
    "acc_single": tables.mean(table["acc_single"]),
    "num_pairs": tables.count(table["acc"]),
    "num": float(len(table["acc"])),
  }


def accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answer",
  pair: str = "pair",
) -> dict[str, float]:
  """Share of the pairs of which both answers are right.

  The benchmark's authors let a language model judge the answers. Here an answer is right when it is
  the true one after VQAv2's normalisation.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`, a text or a list of texts of which one counts, and `pair`,
      which is the same for the two rows of a pair and differs between pairs.
    truth, pair: the names of those columns.

  Returns:
    acc: the share of pairs; a row without its partner counts in none.
    acc_single: share of the rows that are answered rightly.
    num_pairs, num: pairs and rows scored.
  """
  return summary(table(predictions, rows, truth=truth, pair=pair))


@spec.spec
class Mmvp(base.Evaluator):
  """Share of the pairs of images for which both decoded answers are right."""

  truth: str = "answer"
  pair: str = "pair"

  metric = "mmvp"

  def columns(self) -> tuple[str, ...]:
    """The columns of the true answer and of the pair."""
    return (self.truth, self.pair)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The scores of each row and pair."""
    return table([o.text for o in outputs], rows, truth=self.truth, pair=self.pair)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `accuracy`."""
    return summary(self.table(rows, outputs))


def _plain(text: str) -> str:
  """Normalised, unless nothing is left then: '(a)' is an article in parentheses."""
  return vqav2.normalized(text) or text.strip().lower()


def _name_of(row: Mapping[str, Any], name: str, i: int) -> Hashable:
  value = base.column(row, name, i)
  if not isinstance(value, (str, int, np.integer)):
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected the name or number"
      " of a pair."
    )
  return value
