"""Benchmarks with a rule of their own for what is right: ChartQA, POPE, ScienceQA, TallyQA."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base

_TOLERANCE = 0.05  # arXiv:2203.10244, section 5.1.


@spec.spec
class ChartQa(base.Metric):
  """ChartQA: exact match, and the relaxed accuracy that lets numbers be off by a twentieth.

  Attributes:
    target: the column with a text, or with a list of texts of which the best one counts.
    lower: compare without case.
    part: the column that says which part of the benchmark a row is of, as 'human' or 'augmented';
      then there are `acc/<part>`, `relaxed_acc/<part>`, `num/<part>`, and the means over parts,
      whatever their sizes: `acc_avg` and `relaxed_acc_avg`, the number that papers print.

  Metrics:
    acc, relaxed_acc (see `relaxed_match`), num: shares, and rows scored.
  """

  target: str = "answer"
  lower: bool = False
  part: str = ""

  reads = ("target",)
  may_read = ("part",)
  gives = ("acc", "relaxed_acc")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    """acc and relaxed_acc, and the same again as those of the row's part."""
    predicted, *wanted = (
      base.wording(text, lower=self.lower, strip=True)
      for text in (prediction, *base.answers(row, self.target))
    )
    relaxed = any(relaxed_match(predicted, answer) for answer in wanted)
    found = {"acc": float(predicted in wanted), "relaxed_acc": float(relaxed)}
    if self.part:
      part = base.text(row, self.part, "the name of a part")
      found |= {f"{name}/{part}": value for name, value in found.items()}
    return found

  def summary(self, table: base.Table) -> dict[str, float]:
    """The means over rows, those of parts, and the means over parts."""
    found = {name: base.mean_of(table[name]) for name in self.gives}
    for name in self.gives:
      of_parts = base.parts(table, name)
      means = [value for key, value in of_parts.items() if key.startswith(f"{name}/")]
      found |= of_parts | ({f"{name}_avg": base.mean(means)} if means else {})
    return {**found, "num": base.num_rows(table)}


def relaxed_match(prediction: str, target: str) -> bool:
  """Numbers that differ by at most 5 % of the true one; any other texts must be equal.

  '12%' is the number 0.12. A true number of 0 must be given exactly as it is written.
  """
  wanted = _number(target)
  predicted = _number(prediction) if wanted else None
  if wanted and predicted is not None:
    return abs(predicted - wanted) / abs(wanted) <= _TOLERANCE
  return prediction == target


def _number(text: str) -> float | None:
  """The finite number that the text is, or None."""
  try:
    value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def _bare(text: str) -> str:
  return text.strip().lower()


def _in_sentence(text: str) -> str:
  """What POPE's authors take a sentence for: only its first is read, and any no makes it a no."""
  words = text.partition(".")[0].replace(",", "").split(" ")
  return "no" if {"No", "no", "not"} & set(words) else "yes"


# How a prediction becomes 'yes', 'no' or something else, which is wrong.
WORDINGS: dict[str, Callable[[str], str]] = {"bare": _bare, "sentence": _in_sentence}


@spec.spec
class Pope(base.Metric):
  """POPE: does the model see objects that are not there? (arXiv:2305.10355)

  Attributes:
    target: the column with 'yes' or 'no'.
    wording: 'bare' is the reference's: whatever is neither 'yes' nor 'no', whichever case, is
      wrong. 'sentence' is the rule of the benchmark's own script, for models that talk: what has
      'No', 'no' or 'not' for a word before its first full stop is a no, anything else a yes.

  Metrics:
    acc: share of right answers.
    precision: share of right ones among the answers 'yes'.
    recall: share of those answered 'yes' among the questions whose target that is.
    f1: the harmonic mean of these two.
    yes_share, valid_share: share of the answers 'yes', and of those that are a bare yes or no.
    num: rows scored.
  """

  target: str = "answer"
  wording: str = "bare"

  reads = ("target",)
  gives = ("acc", "valid", "said_yes", "is_yes", "right_yes")

  def __post_init__(self):
    errors.pick(WORDINGS, self.wording, "wording of evals.Pope")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    """What is said and what is true, as 0 or 1."""
    value = base.column(row, self.target)
    wanted = _bare(value) if isinstance(value, str) else ""
    if wanted not in ("yes", "no"):
      raise base.unexpected(row, self.target, "'yes' or 'no'")
    predicted = WORDINGS[self.wording](prediction)
    return {
      "acc": float(predicted == wanted),
      "valid": float(_bare(prediction) in ("yes", "no")),
      "said_yes": float(predicted == "yes"),
      "is_yes": float(wanted == "yes"),
      "right_yes": float(predicted == wanted == "yes"),
    }

  def summary(self, table: base.Table) -> dict[str, float]:
    """The shares, of rows, of answers 'yes' and of questions whose target that is."""
    num_right, num_said, num_true = (
      float(table[name].sum()) for name in ("right_yes", "said_yes", "is_yes")
    )
    return {
      "acc": base.mean_of(table["acc"]),
      "precision": num_right / max(num_said, 1.0),
      "recall": num_right / max(num_true, 1.0),
      # The harmonic mean of the two, without dividing by nothing.
      "f1": 2 * num_right / max(num_said + num_true, 1.0),
      "yes_share": base.mean_of(table["said_yes"]),
      "valid_share": base.mean_of(table["valid"]),
      "num": base.num_rows(table),
    }


_ANSWER = re.compile(r"the answer is ([a-z])\.")


@spec.spec
class ScienceQa(base.Metric):
  """ScienceQA: the letter in 'The answer is A.'

  Attributes:
    target: the column with the letter, or with a text like the predictions.

  Metrics:
    acc, parsefail, num: share of right letters, share of the answers without a letter, which are
      wrong, and rows scored.
  """

  target: str = "answer"

  reads = ("target",)
  gives = ("acc", "parsefail")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    """acc and parsefail, 0 or 1."""
    value = base.column(row, self.target)
    text = value.strip().lower() if isinstance(value, str) else ""
    wanted = text if re.fullmatch("[a-z]", text) else letter(text)
    if not wanted:
      raise base.unexpected(row, self.target, "a letter, or a text such as 'The answer is A.'")
    predicted = letter(prediction)
    return {"acc": float(predicted == wanted), "parsefail": float(not predicted)}


def letter(text: str) -> str:
  """The letter, in lower case, of a text that begins with 'The answer is A.'; else ''."""
  found = _ANSWER.match(text.lower())
  return found[1] if found else ""


_LARGEST = 15  # TallyQA's largest count; others have larger ones, which are one group.
_WORDS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
  " sixteen seventeen eighteen nineteen twenty"
).split()
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_WORDS)}
_KINDS = {1: "acc/simple", 0: "acc/complex", -1: ""}
_COUNTS = [*(f"acc/count_{i}" for i in range(_LARGEST + 1)), f"acc/count_over_{_LARGEST}"]


@spec.spec
class TallyQa(base.Metric):
  """Counting, 'two' and '2' being the same: TallyQA, and CountBenchQA.

  Attributes:
    target: the column with a whole number or a text.
    simple: the column with 1 for a simple question, 0 for a complex one, -1 where that is not
      known; '' where there are no kinds of questions, as in CountBenchQA.

  Metrics:
    acc: share of right counts.
    acc/simple, acc/complex: by kind of question.
    acc/count_0 … acc/count_15, acc/count_over_15: by true count.
    num, num/…: how many rows; a group without any is left out.
  """

  target: str = "answer"
  simple: str = "issimple"

  reads = ("target",)
  may_read = ("simple",)
  gives = ("acc", "acc/simple", "acc/complex", *_COUNTS)

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    """acc, and the same again as that of the question's kind and of the true count."""
    wanted = base.column(row, self.target)
    if not isinstance(wanted, (int, np.integer, str)) or isinstance(wanted, bool):
      raise base.unexpected(row, self.target, "a count, as a whole number or a text")
    wanted = in_digits(str(wanted))
    hit = float(in_digits(prediction) == wanted)
    names = ["acc", self._kind(row)]
    if wanted.isdecimal():
      names.append(_COUNTS[min(int(wanted), _LARGEST + 1)])
    return {name: hit for name in names if name}

  def _kind(self, row: base.Row) -> str:
    """The name of the score of such questions, or ''."""
    if not self.simple:
      return ""
    kind = base.column(row, self.simple)
    if not isinstance(kind, (int, np.integer)) or kind not in _KINDS:
      expected = "1 (simple), 0 (complex) or -1 (not known). Without such a column set simple=''"
      raise base.unexpected(row, self.simple, expected)
    return _KINDS[int(kind)]


def in_digits(text: str) -> str:
  """A number word up to twenty, and 'none', as digits; any other text as it is."""
  text = text.strip()
  return _DIGITS.get(text.lower(), text)
