"""How many edits make one sequence of another, and the error rates and similarity made of that."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import tables


def levenshtein(a: Sequence[Any], b: Sequence[Any]) -> int:
  """The least number of insertions, deletions and substitutions that make `b` of `a`.

  A column of the classical table is held as the bits of two whole numbers, where it rises and where
  it falls (Myers 1999, in Hyyrö's form), so that a step costs a few operations, not len(a) of them.
  """
  if a == b:
    return 0
  if not a or not b:
    return len(a) or len(b)
  places: dict[Any, int] = {}
  for i, item in enumerate(a):
    places[item] = places.get(item, 0) | 1 << i
  every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
  rises, falls = every, 0
  distance = len(a)
  for item in b:
    equal = places.get(item, 0)
    diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
    rises_across = falls | (every & ~(diagonal | rises))
    falls_across = rises & diagonal
    distance += bool(rises_across & last) - bool(falls_across & last)
    rises_across = (rises_across << 1 | 1) & every
    falls_across = falls_across << 1 & every
    rises = falls_across | (every & ~(diagonal | rises_across))
    falls = rises_across & diagonal
  return distance


def anls(prediction: str, truth: str, threshold: float = 0.5) -> float:
  """Normalised Levenshtein similarity; 0 where the distance reaches `threshold` (arXiv:1907.00490).

  An empty truth scores 1 for an empty prediction and 0 for any other.
  """
  if not truth:
    return float(prediction == "")
  distance = levenshtein(prediction, truth) / max(len(prediction), len(truth))
  return 1 - distance if distance < threshold else 0.0


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  lower: bool = False,
  strip: bool = True,
) -> tables.Table:
  """cer/edits, cer/length, wer/edits, wer/length of each row; see `error_rate`."""
  columns: dict[str, list[float]] = {
    name: [] for name in ("cer/edits", "cer/length", "wer/edits", "wer/length")
  }
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    said = _plain(prediction, lower=lower, strip=strip)
    wanted = [_plain(answer, lower=lower, strip=strip) for answer in answers]
    for rate, cut in (("cer", str), ("wer", str.split)):
      edits, length = _best(cut(said), [cut(answer) for answer in wanted])
      columns[f"{rate}/edits"].append(edits)
      columns[f"{rate}/length"].append(length)
  return tables.make(columns)


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `error_rate`."""
  rates = {}
  for rate in ("cer", "wer"):
    edits, length = (tables.counting(table[f"{rate}/{part}"]).sum() for part in ("edits", "length"))
    rates[rate] = float(edits / max(length, 1))
  return {**rates, "num": tables.count(table["cer/edits"])}


def error_rate(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  lower: bool = False,
  strip: bool = True,
) -> dict[str, float]:
  """Character and word error rate: edits over all rows by the length of all true texts.

  They exceed 1 where too much is said. Characters are code points; words are what white space
  divides.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`: a text, or a list of texts of which the nearest counts; a row
      with an empty list counts nowhere.
    truth: the name of that column.
    lower: compare without case.
    strip: compare without white space at the ends.

  Returns:
    cer, wer: the rates.
    num: rows scored.
  """
  return summary(table(predictions, rows, truth=truth, lower=lower, strip=strip))


@spec.spec
class ErrorRate(base.Evaluator):
  """Character and word error rate of the decoded texts, as for transcription."""

  truth: str = "suffix"
  lower: bool = False
  strip: bool = True

  metric = "error_rate"

  def columns(self) -> tuple[str, ...]:
    """The column of the true texts."""
    return (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """Edits and lengths of each row."""
    texts = [o.text for o in outputs]
    return table(texts, rows, truth=self.truth, lower=self.lower, strip=self.strip)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `error_rate`."""
    return summary(self.table(rows, outputs))


def _best(said: Sequence[Any], wanted: Sequence[Sequence[Any]]) -> tuple[float, float]:
  """(edits, length) of the true text that is nearest, by its length."""
  found = [(levenshtein(said, text), len(text)) for text in wanted]
  if not found:
    return tables.NONE, tables.NONE
  return min(found, key=lambda pair: pair[0] / max(pair[1], 1))


def _plain(text: str, *, lower: bool, strip: bool) -> str:
  text = text.lower() if lower else text
  return text.strip() if strip else text
