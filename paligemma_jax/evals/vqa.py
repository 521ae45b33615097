"""Answers: exact match, soft accuracy, ANLS, error rates, accuracy by type."""

from __future__ import annotations

import collections
import functools
import itertools
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base


@spec.spec
class ExactMatch(base.Metric):
  """The fraction of answers that equal the true one, or one of several.

  Attributes:
    target: the column with a text or a list of texts.
    lower: compare in lower case.
    strip: ignore white space at the ends.

  Metrics:
    acc, num: the fraction, and rows scored.
  """

  target: str = "suffix"
  lower: bool = False
  strip: bool = True

  reads = ("target",)
  gives = ("acc",)

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    predicted, wanted = base.compared(self, prediction, row)
    return {"acc": float(predicted in wanted)}

  def baseline(self, rows: Sequence[base.Row]) -> dict[str, float]:
    """The metrics of the majority answer of these rows."""
    each = base.each(lambda row: base.answers(row, self.target), rows)
    answers = collections.Counter(itertools.chain.from_iterable(each))
    best = max(answers, key=lambda a: (answers[a], a)) if answers else ""
    return self.score(rows, base.outputs_of([best] * len(rows)))


@spec.spec
class VqaAccuracy(base.Metric):
  """The accuracies of OK-VQA and similar data sets, without VQAv2's text normalisation.

  A text in the column `target` is the only correct answer. A list has the answers of several
  people: `acc` is then min(1, matches / 3), `acc_any` is 1 for any match, `anls` is the best over
  the answers. A row with an empty list counts in `num` alone.

  Attributes:
    target, lower, strip: as of `ExactMatch`.

  Metrics:
    acc, acc_any, anls: means over the rows with answers.
    num_truth, num: the number of those rows, and of all rows.
  """

  target: str = "suffix"
  lower: bool = False
  strip: bool = False

  reads = ("target",)
  gives = ("acc", "acc_any", "anls")
  counts = (("num_truth", "acc"),)

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    return _soft(self, prediction, row)


# Questions about numbers, which some papers, PaliGemma's too, leave out.
_NUMERIC = ("area", "count")


@spec.spec
class Rsvqa(base.Metric):
  """The accuracies of RSVQA, overall and averaged over question types (arXiv:2003.07333).

  Attributes:
    target: the column with a text or a list of texts.
    question_type: the column with a text such as 'presence', 'comp', 'rural_urban', 'count' or
      'area'.
    lower: compare in lower case.

  Metrics:
    acc: as of `VqaAccuracy`; with a list of one answer a correct one counts a third.
    acc_any: fraction of correct answers, the overall accuracy of the literature.
    acc/<type>, num/<type>: the same by question type, and the number of rows.
    acc_avg: mean of the acc/<type>, the average accuracy that PaliGemma's papers report.
    acc_avg_nonum: the same without the types 'count' and 'area'.
    num: rows scored.
  """

  target: str = "answers"
  question_type: str = "question_type"
  lower: bool = False

  strip = False
  reads = ("target", "question_type")
  gives = ("acc", "acc_any")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    kind = base.text(row, self.question_type, "a type of question such as 'presence'")
    found = _soft(self, prediction, row)
    if not found:
      return {}
    return {"acc": found["acc"], "acc_any": found["acc_any"], f"acc/{kind}": found["acc_any"]}

  def summary(self, table: base.Table) -> dict[str, float]:
    found = super().summary(table)
    kinds = {name: value for name, value in found.items() if name.startswith("acc/")}
    plain = [v for name, v in kinds.items() if name.removeprefix("acc/") not in _NUMERIC]
    return {**found, "acc_avg": base.mean(kinds.values()), "acc_avg_nonum": base.mean(plain)}


@spec.spec
class ErrorRate(base.Metric):
  """Character and word error rate, as for transcription: edits over the length of the true texts.

  They exceed 1 for predictions that are too long. Characters are code points; words are separated
  by white space.

  Attributes:
    target, lower, strip: as of `ExactMatch`. The nearest text of a list counts; a row with an empty
      list does not count.

  Metrics:
    cer, wer: the rates.
    num: rows scored.
  """

  target: str = "suffix"
  lower: bool = False
  strip: bool = True

  reads = ("target",)
  gives = ("cer/edits", "cer/length", "wer/edits", "wer/length")

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
    predicted, wanted = base.compared(self, prediction, row)
    if not wanted:
      return {}
    found: dict[str, float] = {}
    for rate, cut in (("cer", str), ("wer", str.split)):
      texts = [cut(answer) for answer in wanted]
      pairs = [(levenshtein(cut(predicted), text), len(text)) for text in texts]
      edits, length = min(pairs, key=lambda pair: pair[0] / max(pair[1], 1))
      found |= {f"{rate}/edits": edits, f"{rate}/length": length}
    return found

  def summary(self, table: base.Table) -> dict[str, float]:
    sums = {name: float(base.counting(table[name]).sum()) for name in self.gives}
    rates = {r: sums[f"{r}/edits"] / max(sums[f"{r}/length"], 1.0) for r in ("cer", "wer")}
    return {**rates, "num": base.count(table["cer/edits"])}


def levenshtein(a: Sequence[Any], b: Sequence[Any]) -> int:
  """The least number of insertions, deletions and substitutions that turn `a` into `b`.

  A column of the classical table is held as the bits of two integers, where it rises and where it
  falls (Myers 1999, in Hyyrö's form), so that a step takes a few operations and not len(a).
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


def anls(prediction: str, target: str, threshold: float = 0.5) -> float:
  """Normalised Levenshtein similarity; 0 where the distance reaches `threshold` (arXiv:1907.00490).

  An empty target scores 1 for an empty prediction and 0 for any other.
  """
  if not target:
    return float(prediction == "")
  distance = levenshtein(prediction, target) / max(len(prediction), len(target))
  return 1 - distance if distance < threshold else 0.0


def _soft(metric: VqaAccuracy | Rsvqa, prediction: str, row: base.Row) -> dict[str, float]:
  """acc, acc_any and anls as of `VqaAccuracy`; {} for a row without answers."""
  predicted, wanted = base.compared(metric, prediction, row)
  if not wanted:
    return {}
  matches = float(wanted.count(predicted))
  soft = matches if isinstance(row[metric.target], str) else min(1.0, matches / 3)
  similarity = max(anls(predicted, answer) for answer in wanted)
  return {"acc": soft, "acc_any": min(1.0, matches), "anls": similarity}


_TYPES = {"yes/no": "acc/yesno", "number": "acc/number", "other": "acc/other"}

_PUNCTUATION = frozenset(';/[]"{}()=+\\_-><@`,?!')
_PUNCTUATED = re.compile(r'[.;/\[\]"{}()=+\\_\-><@`,?!]')
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official code passes a flag as the count: at most this many are removed.
_MOST_PERIODS = int(re.UNICODE)

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {"none": "0"} | {
  word: str(i)
  for i, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
# Any of these without one of its apostrophes gets it back. The official list also has I'd've, I'm
# and I've, which never match lower-case words.
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
_CONTRACTIONS = {  # From the word with one of its apostrophes left out.
  word[:i] + word[i + 1 :]: word
  for word in _CONTRACTED
  for i, char in enumerate(word)
  if char == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # Reversed, as in the official list.
_WORDS = _NUMBERS | _CONTRACTIONS


@functools.lru_cache(maxsize=1 << 16)  # The same answers recur.
def normalized(text: str) -> str:
  """The text in the form that VQAv2's server compares where people gave different answers."""
  if _PUNCTUATED.search(text):
    # A mark beside a space is removed, any other becomes a space; with a comma between two digits
    # anywhere in the text all are removed, as in the official code.
    all_go = _DIGIT_COMMA_DIGIT.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION.intersection(text):
      goes = all_go or f"{mark} " in text or f" {mark}" in text
      cleaned = cleaned.replace(mark, "" if goes else " ")
    text = _PERIOD.sub("", cleaned, count=_MOST_PERIODS) if "." in cleaned else cleaned
  words = text.lower().split()
  return " ".join([_WORDS.get(word, word) for word in words if word not in _ARTICLES])


def accuracy_of(num_matches: int, num_answers: int) -> float:
  """The mean of min(1, matches / 3) over all ways to leave out one answer."""
  left_out = num_matches * min(1.0, (num_matches - 1) / 3)
  return (left_out + (num_answers - num_matches) * min(1.0, num_matches / 3)) / num_answers


@spec.spec
class VqaV2Accuracy(base.Metric):
  """The accuracy of VQAv2, overall and by answer type, as fractions (not percent).

  Attributes:
    target: the column with the answers of ten people; a row without answers is not scored.
    answer_type: the column that holds 'yes/no', 'number' or 'other'; '' is 'other' for all.

  Metrics:
    acc: mean over the rows with answers.
    acc/yesno, acc/number, acc/other, num/…: means and numbers of rows by type that has rows.
    num_truth, num: the number of rows with answers, and of all rows.
  """

  target: str = "answers"
  answer_type: str = "answer_type"

  reads = ("target",)
  may_read = ("answer_type",)
  gives = ("acc", *_TYPES.values())
  counts = (("num_truth", "acc"),)

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
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
    # Normalised only where people differ, as in the official code; texts in the image stay as is.
    if len(set(answers)) > 1:
      predicted, *answers = (normalized(text) for text in (predicted, *answers))
    score = accuracy_of(answers.count(predicted), len(answers))
    return {"acc": score, _TYPES[kind]: score}


@spec.spec
class Mmvp(base.Metric):
  """MMVP: a question about two images that are similar to CLIP; both answers must be correct.

  The benchmark's authors judge answers with a language model. Here an answer is correct when it
  equals the true one after VQAv2's normalisation.

  Attributes:
    target: the column with a text or a list of texts.
    pair: the column with the name or number of the pair.

  Metrics:
    acc: the fraction of correct pairs; a row without a partner counts in none.
    acc_single: the fraction of correct rows.
    num_pairs, num: pairs and rows scored.
  """

  target: str = "answer"
  pair: str = "pair"

  reads = ("target", "pair")
  gives = ("acc", "acc_single")
  counts = (("num_pairs", "acc"),)

  def score_row(self, prediction: str, row: base.Row) -> dict[str, float]:
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


def _bare(text: str) -> str:
  """Normalised, unless that is empty: '(a)' is an article in parentheses."""
  return normalized(text) or text.strip().lower()


def _one_line(text: str) -> str:
  return text.replace("\n", " ").replace("\t", " ").strip()
