"""Short answers: exact match, the soft accuracy of visual question answering, and ANLS."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import edits
from paligemma_jax.evals import tables


def exact_match_table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  lower: bool = False,
  strip: bool = True,
) -> tables.Table:
  """`acc` of each row, 0 or 1; see `exact_match`."""
  hits = []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    wanted = {_plain(a, lower=lower, strip=strip) for a in answers}
    hits.append(float(_plain(prediction, lower=lower, strip=strip) in wanted))
  return tables.make({"acc": hits})


def exact_match_summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `exact_match`."""
  return {"acc": tables.mean(table["acc"]), "num": float(len(table["acc"]))}


def exact_match(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  lower: bool = False,
  strip: bool = True,
) -> dict[str, float]:
  """`acc`: share of the predictions that equal a true answer; `num`: rows scored.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`: a text, or a list of texts of which the best one counts.
    truth: the name of that column.
    lower: compare without case.
    strip: compare without white space at the ends.
  """
  table = exact_match_table(predictions, rows, truth=truth, lower=lower, strip=strip)
  return exact_match_summary(table)


def vqa_table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  lower: bool = False,
  strip: bool = False,
) -> tables.Table:
  """acc, acc_any and anls of each row; see `vqa_accuracy`."""
  soft, hit, similarity = [], [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    value = base.column(row, truth, i)
    answers = [_plain(a, lower=lower, strip=strip) for a in base.answers_of(value, truth, i)]
    said = _plain(prediction, lower=lower, strip=strip)
    num_matches = sum(said == answer for answer in answers)
    one = isinstance(value, str)
    soft.append(float(num_matches) if one else min(1.0, num_matches / 3))
    hit.append(min(1.0, float(num_matches)))
    similarity.append(max((edits.anls(said, answer) for answer in answers), default=tables.NONE))
    if not answers:
      soft[-1] = hit[-1] = tables.NONE
  return tables.make({"acc": soft, "acc_any": hit, "anls": similarity})


def vqa_summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `vqa_accuracy`."""
  return {
    **{name: tables.mean(table[name]) for name in ("acc", "acc_any", "anls")},
    "num_truth": tables.count(table["acc"]),
    "num": float(len(table["acc"])),
  }


def vqa_accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  lower: bool = False,
  strip: bool = False,
) -> dict[str, float]:
  """The accuracies of OK-VQA and its kin, without the VQAv2 text normalisation.

  A text in the column `truth` is the one right answer. A list is the answers of several people:
  `acc` then counts min(1, matches / 3), `acc_any` any match, `anls` the best over the answers. An
  empty list is a row without truth: counted in `num`, scored nowhere.

  Returns:
    acc, acc_any, anls: means over the rows with truth.
    num_truth, num: how many those rows, and all rows, are.
  """
  return vqa_summary(vqa_table(predictions, rows, truth=truth, lower=lower, strip=strip))


@spec.spec
class ExactMatch(base.Evaluator):
  """Share of the decoded answers that equal the true one (with several: one of them)."""

  truth: str = "suffix"
  lower: bool = False
  strip: bool = True

  metric = "exact_match"

  def columns(self) -> tuple[str, ...]:
    """The column of the true answers."""
    return (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The score of each row."""
    texts = [o.text for o in outputs]
    return exact_match_table(texts, rows, truth=self.truth, lower=self.lower, strip=self.strip)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `exact_match`."""
    return exact_match_summary(self.table(rows, outputs))

  def baseline(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same metrics of always giving the commonest true answer of these very rows."""
    answers = collections.Counter(
      answer
      for i, row in enumerate(rows)
      for answer in base.answers_of(base.column(row, self.truth, i), self.truth, i)
    )
    best = max(answers, key=lambda a: (answers[a], a)) if answers else ""
    return exact_match(
      [best] * len(rows), rows, truth=self.truth, lower=self.lower, strip=self.strip
    )


@spec.spec
class VqaAccuracy(base.Evaluator):
  """Soft accuracy min(1, matches / 3), any-match accuracy and ANLS of the decoded answers."""

  truth: str = "suffix"
  lower: bool = False
  strip: bool = False

  metric = "vqa_accuracy"

  def columns(self) -> tuple[str, ...]:
    """The column of the true answers."""
    return (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The scores of each row."""
    texts = [o.text for o in outputs]
    return vqa_table(texts, rows, truth=self.truth, lower=self.lower, strip=self.strip)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `vqa_accuracy`."""
    return vqa_summary(self.table(rows, outputs))


def _plain(text: str, *, lower: bool, strip: bool) -> str:
  text = text.lower() if lower else text
  return text.strip() if strip else text
