"""VQAv2 accuracy, as the challenge's server computes it, quirks included (visualqa.org/evaluation).

TextVQA and VizWiz are scored by the same rule. MMVP's answers are compared by its normalisation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base

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


@functools.lru_cache(maxsize=1 << 16)  # The same answers come again and again.
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


@spec.spec
class VqaV2Accuracy(base.Metric):
  """The accuracy of VQAv2, in all and by type of answer, as shares (not percent).

  Attributes:
    target: the column with the answers of ten people; with none a row is not scored.
    answer_type: the column that holds 'yes/no', 'number' or 'other'; '' is 'other' for all.

  Metrics:
    acc: mean over the rows with answers.
    acc/yesno, acc/number, acc/other, num/…: means and numbers of rows by type, where there are any.
    num_truth, num: how many rows have answers, and all rows.
  """

  target: str = "answers"
  answer_type: str = "answer_type"

  reads = ("target",)
  may_read = ("answer_type",)
  gives = ("acc", *_TYPES.values())

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    """acc, and the same again as that of the answers' type."""
    answers = [_one_line(answer) for answer in base.answers(row, self.target)]
    if not answers:
      return {}
    kind = "other"
    if self.answer_type:
      kind = base.column(row, self.answer_type)
      if not isinstance(kind, str) or kind not in _TYPES:
        known = f"one of {', '.join(map(repr, _TYPES))}"
        hint = "If the answers have no types, set answer_type=''"
        raise base.unexpected(row, self.answer_type, f"{known}. {hint}")
    if len(answers) == 1:
      raise errors.DataError(
        f"column {self.target!r} holds the one answer {answers[0]!r}; VQAv2 accuracy compares with"
        " those of several people. Use exact_match."
      )
    predicted = _one_line(prediction)
    # Only where people differ is anything normalised: that spares texts read off the image.
    if len(set(answers)) > 1:
      predicted, *answers = (normalized(text) for text in (predicted, *answers))
    score = accuracy_of(answers.count(predicted), len(answers))
    return {"acc": score, _TYPES[kind]: score}

  def summary(self, table: base.Table) -> dict[str, float]:
    """The means, and how many rows have answers."""
    return {
      "acc": base.mean_of(table["acc"]),
      **base.parts(table, "acc"),
      "num_truth": base.count(table["acc"]),
      "num": base.num_rows(table),
    }


@spec.spec
class Mmvp(base.Metric):
  """MMVP: one question about two images that look alike to CLIP; both must be answered rightly.

  The benchmark's authors let a language model judge the answers. Here an answer is right when it is
  the true one after VQAv2's normalisation.

  Attributes:
    target: the column with a text, or with a list of texts of which one counts.
    pair: the column that is the same for the two rows of a pair and differs between pairs.

  Metrics:
    acc: the share of pairs that are right; a row without its partner counts in none.
    acc_single: share of the rows that are answered rightly.
    num_pairs, num: pairs and rows scored.
  """

  target: str = "answer"
  pair: str = "pair"

  reads = ("target", "pair")
  gives = ("acc", "acc_single")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    """acc_single; `table` adds acc."""
    if not isinstance(base.column(row, self.pair), (str, int, np.integer)):
      raise base.unexpected(row, self.pair, "the name or number of a pair")
    wanted = {_bare(answer) for answer in base.answers(row, self.target)}
    return {"acc_single": float(_bare(prediction) in wanted)}

  def table(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> base.Table:
    """acc_single of each row; acc of each whole pair, at the first of its rows."""
    found = super().table(rows, outputs)
    pairs: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
      pairs.setdefault(row[self.pair], []).append(i)
    for members in pairs.values():
      if len(members) > 1:
        found["acc"][members[0]] = found["acc_single"][members].min()
    return found

  def summary(self, table: base.Table) -> dict[str, float]:
    """The shares, and how many pairs there are."""
    shares = {name: base.mean_of(table[name]) for name in self.gives}
    return {**shares, "num_pairs": base.count(table["acc"]), "num": base.num_rows(table)}


def _bare(text: str) -> str:
  """Normalised, unless nothing is left then: '(a)' is an article in parentheses."""
  return normalized(text) or text.strip().lower()


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
