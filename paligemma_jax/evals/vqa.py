"""Short answers: exact match, the soft accuracy of visual question answering, and ANLS."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import output


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
  hits = []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    wanted = {_plain(a, lower=lower, strip=strip) for a in answers}
    hits.append(float(_plain(prediction, lower=lower, strip=strip) in wanted))
  return {"acc": base.mean(hits), "num": float(len(hits))}


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
  soft, hit, anls_values = [], [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    value = base.column(row, truth, i)
    answers = [_plain(a, lower=lower, strip=strip) for a in base.answers_of(value, truth, i)]
    if not answers:
      continue
    said = _plain(prediction, lower=lower, strip=strip)
    num_matches = sum(said == answer for answer in answers)
    soft.append(float(num_matches) if isinstance(value, str) else min(1.0, num_matches / 3))
    hit.append(min(1.0, float(num_matches)))
    anls_values.append(max(anls(said, answer) for answer in answers))
  return {
      "acc": base.mean(soft),
      "acc_any": base.mean(hit),
      "anls": base.mean(anls_values),
      "num_truth": float(len(soft)),
      "num": float(len(predictions)),
  }


def anls(prediction: str, truth: str, threshold: float = 0.5) -> float:
  """Normalised Levenshtein similarity; 0 where the distance reaches `threshold` (arXiv:1907.00490).

  An empty truth scores 1 for an empty prediction and 0 for any other.
  """
  if not truth:
    return float(prediction == "")
  distance = _levenshtein(prediction, truth) / max(len(prediction), len(truth))
  return 1 - distance if distance < threshold else 0.0


@spec.spec
class ExactMatch(base.Evaluator):
  """Share of the decoded answers that equal the true one (with several: one of them)."""

  truth: str = "suffix"
  lower: bool = False
  strip: bool = True

  def columns(self) -> tuple[str, ...]:
    """The column of the true answers."""
    return (self.truth,)

  def score(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> dict[str, float]:
    """The metrics of `exact_match`."""
    texts = [o.text for o in outputs]
    return exact_match(texts, rows, truth=self.truth, lower=self.lower, strip=self.strip)

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

  def columns(self) -> tuple[str, ...]:
    """The column of the true answers."""
    return (self.truth,)

  def score(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> dict[str, float]:
    """The metrics of `vqa_accuracy`."""
    texts = [o.text for o in outputs]
    return vqa_accuracy(texts, rows, truth=self.truth, lower=self.lower, strip=self.strip)


def _plain(text: str, *, lower: bool, strip: bool) -> str:
  text = text.lower() if lower else text
  return text.strip() if strip else text


def _levenshtein(a: str, b: str) -> int:
  previous = list(range(len(b) + 1))
  for i, char_a in enumerate(a, 1):
    current = [i]
    for j, char_b in enumerate(b, 1):
      substitution = previous[j - 1] + (char_a != char_b)
      current.append(min(previous[j] + 1, current[-1] + 1, substitution))
    previous = current
  return previous[-1]
