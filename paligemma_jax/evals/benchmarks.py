"""Benchmarks with their own rule for a correct answer: ChartQA, POPE, ScienceQA, TallyQA."""

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
  """ChartQA: exact match, and the relaxed accuracy that tolerates 5 % in numbers.

  Attributes:
    target: the column with a text, or with a list of texts of which the best one counts.
    lower: compare in lower case.
    part: the column with the row's part of the benchmark, 'human' or 'augmented'; it adds
      `acc/<part>`, `relaxed_acc/<part>`, `num/<part>`, and the unweighted means over parts
      `acc_avg` and `relaxed_acc_avg`, which papers report.

  Metrics:
    acc, relaxed_acc (see `relaxed_match`), num: fractions, and rows scored.
  """

  target: str = "answer"
  lower: bool = False
  part: str = ""

  strip = True
  reads = ("target",)
  may_read = ("part",)
  gives = ("acc", "relaxed_acc")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    predicted, wanted = base.compared(self, prediction, row)
    relaxed = any(relaxed_match(predicted, answer) for answer in wanted)
    found = {"acc": float(predicted in wanted), "relaxed_acc": float(relaxed)}
    if self.part:
      part = base.text(row, self.part, "the name of a part")
      found |= {f"{name}/{part}": value for name, value in found.items()}
    return found

  def summary(self, table: base.Table) -> dict[str, float]:
    found = super().summary(table)
    for name in self.gives:
      of_parts = [value for key, value in found.items() if key.startswith(f"{name}/")]
      found |= {f"{name}_avg": base.mean(of_parts)} if of_parts else {}
    return found


def relaxed_match(prediction: str, target: str) -> bool:
  """Whether numbers differ by at most 5 % of the true one, or other texts are equal.

  '12%' is the number 0.12. A true number of 0 must be equal as a text.
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
  """POPE's own rule: any 'no' in the first sentence makes it a no."""
  words = text.partition(".")[0].replace(",", "").split(" ")
  return "no" if {"No", "no", "not"} & set(words) else "yes"


# From a prediction to 'yes', 'no' or something else, which is wrong.
WORDINGS: dict[str, Callable[[str], str]] = {"bare": _bare, "sentence": _in_sentence}


@spec.spec
class Pope(base.Metric):
  """POPE: does the model hallucinate objects? (arXiv:2305.10355)

  Attributes:
    target: the column with 'yes' or 'no'.
    wording: 'bare' is the reference's rule: anything but 'yes' or 'no', in any case, is wrong.
      'sentence' is the rule of the benchmark's script, for models that answer in sentences: an
      answer with the word 'No', 'no' or 'not' before its first full stop is a no, any other a yes.

  Metrics:
    acc: fraction of correct answers.
    precision: fraction of correct answers among the answers 'yes'.
    recall: fraction of answers 'yes' among the questions with the target 'yes'.
    f1: the harmonic mean of these two.
    yes_share, valid_share: fraction of answers 'yes', and of answers that are a bare yes or no.
    num: rows scored.
  """

  target: str = "answer"
  wording: str = "bare"

  reads = ("target",)
  gives = ("acc", "valid", "predicted_yes", "true_yes", "correct_yes")

  def __post_init__(self):
    errors.pick(WORDINGS, self.wording, "wording of evals.Pope")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    value = base.column(row, self.target)
    wanted = _bare(value) if isinstance(value, str) else ""
    if wanted not in ("yes", "no"):
      raise base.unexpected(row, self.target, "'yes' or 'no'")
    predicted = WORDINGS[self.wording](prediction)
    return {
      "acc": float(predicted == wanted),
      "valid": float(_bare(prediction) in ("yes", "no")),
      "predicted_yes": float(predicted == "yes"),
      "true_yes": float(wanted == "yes"),
      "correct_yes": float(predicted == wanted == "yes"),
    }

  def summary(self, table: base.Table) -> dict[str, float]:
    num_correct, num_predicted, num_true = (
      float(table[name].sum()) for name in ("correct_yes", "predicted_yes", "true_yes")
    )
    return {
      "acc": base.mean_of(table["acc"]),
      "precision": num_correct / max(num_predicted, 1.0),
      "recall": num_correct / max(num_true, 1.0),
      "f1": 2 * num_correct / max(num_predicted + num_true, 1.0),
      "yes_share": base.mean_of(table["predicted_yes"]),
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
    acc, parsefail, num: fraction of correct letters, fraction of answers without a letter, which
      are wrong, and rows scored.
  """

  target: str = "answer"

  reads = ("target",)
  gives = ("acc", "parsefail")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    value = base.column(row, self.target)
    text = value.strip().lower() if isinstance(value, str) else ""
    wanted = text if re.fullmatch("[a-z]", text) else letter(text)
    if not wanted:
      raise base.unexpected(row, self.target, "a letter, or a text such as 'The answer is A.'")
    predicted = letter(prediction)
    return {"acc": float(predicted == wanted), "parsefail": float(not predicted)}


def letter(text: str) -> str:
  """The letter, in lower case, in a text that begins with 'The answer is A.'; else ''."""
  found = _ANSWER.match(text.lower())
  return found[1] if found else ""


_LARGEST = 15  # TallyQA's largest count; larger ones, of other data sets, are one group.
_WORDS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
  " sixteen seventeen eighteen nineteen twenty"
).split()
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_WORDS)}
_KINDS: dict[int, tuple[str, ...]] = {1: ("acc/simple",), 0: ("acc/complex",), -1: ()}
_COUNTS = [*(f"acc/count_{i}" for i in range(_LARGEST + 1)), f"acc/count_over_{_LARGEST}"]


@spec.spec
class TallyQa(base.Metric):
  """Counting, where 'two' equals '2': TallyQA and CountBenchQA.

  Attributes:
    target: the column with a whole number or a text.
    simple: the column with 1 for a simple question, 0 for a complex one, -1 for unknown; '' for
      data without kinds of questions, such as CountBenchQA.

  Metrics:
    acc: fraction of correct counts.
    acc/simple, acc/complex: by kind of question.
    acc/count_0 … acc/count_15, acc/count_over_15: by true count.
    num, num/…: the number of rows; empty groups are left out.
  """

  target: str = "answer"
  simple: str = "issimple"

  reads = ("target",)
  may_read = ("simple",)
  gives = ("acc", "acc/simple", "acc/complex", *_COUNTS)

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    wanted = base.column(row, self.target)
    if not isinstance(wanted, (int, np.integer, str)) or isinstance(wanted, bool):
      raise base.unexpected(row, self.target, "a count, as a whole number or a text")
    wanted = in_digits(str(wanted))
    hit = float(in_digits(prediction) == wanted)
    names = ["acc"]
    if self.simple:
      kind = base.column(row, self.simple)
      if not isinstance(kind, (int, np.integer)) or kind not in _KINDS:
        expected = "1 (simple), 0 (complex) or -1 (not known). Without such a column set simple=''"
        raise base.unexpected(row, self.simple, expected)
      names += _KINDS[int(kind)]
    if wanted.isdecimal():
      names.append(_COUNTS[min(int(wanted), _LARGEST + 1)])
    return dict.fromkeys(names, hit)


def in_digits(text: str) -> str:
  """A number word up to twenty, and 'none', as digits; any other text as it is."""
  text = text.strip()
  return _DIGITS.get(text.lower(), text)
