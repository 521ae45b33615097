"""VQAv2 accuracy, as the challenge's server computes it, quirks included (visualqa.org/evaluation).

TextVQA and VizWiz are scored by the same rule.
"""

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

_TYPES = {"yes/no": "acc/yesno", "number": "acc/number", "other": "acc/other"}

_PUNCTUATION = frozenset(';/[]"{}()=+\\_-><@`,?!')
_PUNCTUATED = re.compile(r'[.;/\[\]"{}()=+\\_\-><@`,?!]')
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official code hands a flag where the count belongs: no more than this many are removed.
_MOST_PERIODS = int(re.UNICODE)

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {"none": "0"} | {
  word: str(i)
  for i, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
  )
}
# Any of these written without one of its apostrophes gets it back. The official list has I'd've,
# I'm and I've too, which never match: words are in lower case by then.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
""".split()


def _without_one(word: str) -> list[str]:
  """The word with each of its apostrophes left out in turn."""
  return [word[:i] + word[i + 1 :] for i, char in enumerate(word) if char == "'"]


_CONTRACTIONS = {short: word for word in _CONTRACTED for short in _without_one(word)}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # The other way round, in the official list too.
_WORDS = _NUMBERS | _CONTRACTIONS


def normalized(text: str) -> str:
  """The text as the server compares it where people did not all give the same answer."""
  if _PUNCTUATED.search(text):
    text = _without_punctuation(text)
  words = text.lower().split()
  return " ".join([_WORDS.get(word, word) for word in words if word not in _ARTICLES])


def accuracy_of(num_matches: int, num_answers: int) -> float:
  """The mean of min(1, matches / 3) over all ways to leave out one of the people's answers."""
  left_out = num_matches * min(1.0, (num_matches - 1) / 3)
  return (left_out + (num_answers - num_matches) * min(1.0, num_matches / 3)) / num_answers


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answers",
  answer_type: str = "answer_type",
) -> tables.Table:
  """acc of each row, the same again by type of answer; see `accuracy`."""
  memo: dict[str, str] = {}
  scores: list[float] = []
  kinds: list[str] = []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    kinds.append(_kind(row, answer_type, i) if answers else "")
    scores.append(_score(prediction, answers, memo) if answers else tables.NONE)
    if len(answers) == 1:
      raise errors.DataError(
        f"Row {i} of those to score: column {truth!r} holds the one answer {answers[0]!r}; VQAv2"
        " accuracy compares with those of several people. Use exact_match."
      )
  columns = {"acc": scores}
  for kind in _TYPES.values():
    columns[kind] = [s if k == kind else tables.NONE for s, k in zip(scores, kinds, strict=True)]
  return tables.make(columns)


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `accuracy`."""
  return {
    "acc": tables.mean(table["acc"]),
    **tables.parts(table, "acc"),
    "num_truth": tables.count(table["acc"]),
    "num": float(len(table["acc"])),
  }


def accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "answers",
  answer_type: str = "answer_type",
) -> dict[str, float]:
  """The accuracy of VQAv2, in all and by type of answer, as shares (not percent).

  Args:
    predictions: one text per row.
    rows: each has the column `truth`, the answers of ten people; with none a row is not scored.
    truth: the name of that column.
    answer_type: the column that holds 'yes/no', 'number' or 'other'; '' is 'other' for all.

  Returns:
    acc: mean over the rows with answers.
    acc/yesno, acc/number, acc/other, num/…: means and numbers of rows by type, where there are any.
    num_truth, num: how many rows have answers, and all rows.
  """
  return summary(table(predictions, rows, truth=truth, answer_type=answer_type))


@spec.spec
class VqaV2Accuracy(base.Evaluator):
  """VQAv2 accuracy of the decoded answers, in all and by type of answer."""

  truth: str = "answers"
  answer_type: str = "answer_type"

  metric = "vqav2"

  def columns(self) -> tuple[str, ...]:
    """The columns of the people's answers and their type."""
    return (self.truth, self.answer_type) if self.answer_type else (self.truth,)

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """The score of each row."""
    texts = [o.text for o in outputs]
    return table(texts, rows, truth=self.truth, answer_type=self.answer_type)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `accuracy`."""
    return summary(self.table(rows, outputs))


def _score(prediction: str, answers: Sequence[str], memo: dict[str, str]) -> float:
  answers = [_one_line(answer) for answer in answers]
  said = _one_line(prediction)
  # Only where people differ is anything normalised: that spares texts read off the image.
  if len(set(answers)) > 1:
    said, *answers = (_remembered(text, memo) for text in (said, *answers))
  return accuracy_of(answers.count(said), len(answers))


def _remembered(text: str, memo: dict[str, str]) -> str:
  """`normalized(text)`; the same answers come again and again."""
  found = memo.get(text)
  if found is None:
    found = memo[text] = normalized(text)
  return found


def _one_line(text: str) -> str:
  return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
  # A mark beside a space goes, any other becomes a space; but with a comma between two digits
  # anywhere in the text all of them go, as they do in the official code.
  all_go = _DIGIT_COMMA_DIGIT.search(text) is not None
  cleaned = text
  for mark in _PUNCTUATION.intersection(text):
    goes = all_go or f"{mark} " in text or f" {mark}" in text
    cleaned = cleaned.replace(mark, "" if goes else " ")
  return _PERIOD.sub("", cleaned, count=_MOST_PERIODS) if "." in cleaned else cleaned


def _kind(row: Mapping[str, Any], name: str, i: int) -> str:
  """The column of the metric that the row belongs to."""
  if not name:
    return _TYPES["other"]
  value = base.column(row, name, i)
  if not isinstance(value, str) or value not in _TYPES:
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected one of"
      f" {', '.join(map(repr, _TYPES))}. If the answers have no types, set answer_type=''."
    )
  return _TYPES[value]
