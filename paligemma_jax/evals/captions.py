"""Captions: CIDEr, BLEU, ROUGE-L, and with Java METEOR and SPICE."""

from __future__ import annotations

import collections
import importlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import ptb

MAX_N = 4  # Of the n-grams.
NUM_METEOR_COUNTS = 23
_BLEU = tuple(f"bleu-{n + 1}" for n in range(MAX_N))
_BLEU_SUMS = tuple(f"bleu_sum_{i}" for i in range(2 * MAX_N + 2))
_METEOR_SUMS = tuple(f"meteor_sum_{i}" for i in range(NUM_METEOR_COUNTS))
# The columns of the table for each metric.
COLUMNS = {
  "bleu": _BLEU_SUMS,
  "cider": ("cider",),
  "meteor": _METEOR_SUMS,
  "rouge": ("rouge",),
  "spice": ("spice",),
}

_GROUP = "in/"  # Before a group's name: the column that is 1 for its rows.

# Letters of scripts without blanks between words, each with its marks: Thai, Lao, Burmese, Khmer,
# kana, Han.
_UNSPACED = re.compile(
  "[ก-\u0e30\u0e32\u0e33\u0e40-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*"
  "|[\u0e80-\u0eb0\u0eb2\u0eb3\u0ebd-\u0eff][\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd]*"
  "|[\u1000-\u102a\u103f-\u109f][\u102b-\u103e]*|[\u1780-\u17b3][\u17b4-\u17d3]*"
  "|[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)

# From a text to its words with single blanks between.
TOKENS: dict[str, Callable[[str], str]] = {
  "ptb": ptb.tokenize,
  "blanks": str,
  "characters": lambda text: ptb.tokenize(_UNSPACED.sub(r" \g<0> ", text)),
}


@spec.spec
class CocoCaption(base.Metric):
  """The scores of captions, equal to those of pycocoevalcap, without Java.

  CIDEr is on the scale of the official tool; papers report 100 times that: 1.419 is 141.9. It
  weights words by their frequency in the true captions of all rows, so it depends on which rows are
  scored together, and is 0 for a single row.

  Attributes:
    target: the column with a text or a list of texts; a row with an empty list counts in `num`
      alone.
    image_id: the column with the image's id, for a COCO results file; '' writes none.
    metrics: some of 'cider', 'bleu', 'rouge', 'meteor', 'spice'; the last two need Java and
      pycocoevalcap.
    tokens: how texts become words. 'ptb' is the official tokenizer, made for English, which the
      reference uses for every language: COCO-35L has blanks between words in every script.
      'characters' first separates the letters of scripts without blanks (Chinese, Japanese, Thai,
      …); its scores are comparable only with each other. 'blanks' is for tokenized texts.
    group: the column of a text, such as the language, whose groups are scored separately; '' scores
      all rows together.
    beside: another column of true captions, such as tokenized ones, to score against as well, with
      metrics '<beside>/cider' and so on.
    parts: a column whose groups are scored separately as well, with metrics 'cider/<part>' and so
      on.

  Metrics:
    cider, bleu-1 to bleu-4, rouge, meteor, spice: those in `metrics`. BLEU and METEOR are computed
      from the matches of all captions, as in the official tool; the others are means over captions.
      The mean of single METEOR scores, which some papers report, is 3 to 9 points higher.
    cider_avg, …, cider/<group>, …, num/<group>: with `group`, in place of these, the means over
      groups and the metrics of each.
    num_truth, num: rows with true captions, and all rows.
  """

  target: str = "captions"
  image_id: str = "image_id"
  metrics: tuple = ("cider",)
  tokens: str = "ptb"
  group: str = ""
  beside: str = ""
  parts: str = ""

  reads = ("target",)
  may_read = ("image_id", "group", "beside", "parts")

  def __post_init__(self):
    if isinstance(self.metrics, str) or not self.metrics:
      raise errors.ConfigError(
        f"evals.CocoCaption: metrics={self.metrics!r} must be a tuple of names, as in"
        " ('cider', 'bleu')."
      )
    for name in self.metrics:
      errors.pick(COLUMNS, name, "metric of evals.CocoCaption")
    errors.pick(TOKENS, self.tokens, "tokens of evals.CocoCaption")
    if self.group and self.parts:
      raise errors.ConfigError(
        f"evals.CocoCaption: group={self.group!r} and parts={self.parts!r} both divide the rows;"
        " give one of them."
      )

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    found = self.summary(self.table(rows, outputs))
    if self.beside:
      others = self.summary(self.table(rows, outputs, target=self.beside))
      found |= {f"{self.beside}/{name}": value for name, value in others.items()}
    if self.parts:
      by_part = self.summary(self.table(rows, outputs, by=self.parts))
      found |= {name: value for name, value in by_part.items() if "/" in name}
    return found

  def files(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, str]:
    """{name below `predictions/`: JSON list of image_id and caption, as COCO's tools read it}."""
    if not self.image_id:
      return {}
    ids = base.each(lambda row: base.plain_id(row, self.image_id), rows)
    results = [{"image_id": i, "caption": o.text} for i, o in zip(ids, outputs, strict=True)]
    return {f"{self.name}.json": json.dumps(results, ensure_ascii=False)}

  def table(
    self, rows: Sequence[base.Row], outputs: Sequence[base.Output], target: str = "", by: str = ""
  ) -> base.Table:
    """The values of each row, computed together: CIDEr's weights depend on all rows.

    `target` and `by` are columns in place of those of `self.target` and `self.group`.
    """
    target, group, tokenize = target or self.target, by or self.group, TOKENS[self.tokens]
    groups: dict[str, list[int]] = {}

    def tokenized(row: base.Row, i: int) -> list[str]:
      answers = base.answers(row, target)
      name = base.column(row, group) if group else ""
      if not isinstance(name, str):
        raise base.unexpected(row, group, "a text")
      if answers:
        groups.setdefault(name, []).append(i)
      return [tokenize(answer) for answer in answers]

    true = base.each(tokenized, rows, range(len(rows)))
    predicted = [tokenize(out.text) for out in outputs]
    # The columns that every table has.
    names = [column for name in self.metrics for column in COLUMNS[name]]
    names += [] if group else ["has_truth"]
    found = {name: np.full(len(rows), base.NONE) for name in names}
    for name, places in groups.items():
      scores = _scores([predicted[i] for i in places], [true[i] for i in places], self.metrics)
      scores |= {_GROUP + name if group else "has_truth": np.ones(len(places))}
      for column, values in scores.items():
        found.setdefault(column, np.full(len(rows), base.NONE))[places] = values
    return found

  def summary(self, table: base.Table) -> dict[str, float]:
    num_rows = base.num_rows(table)
    if "has_truth" in table:
      return {**_means(table), "num_truth": base.count(table["has_truth"]), "num": num_rows}
    found: dict[str, float] = {}
    of_groups: dict[str, list[float]] = {}
    num_truth = 0.0
    for column, values in table.items():
      if column.startswith(_GROUP) and base.count(values):
        name = column.removeprefix(_GROUP)
        members = base.take(table, np.flatnonzero(~np.isnan(values)))
        for metric, value in _means(members).items():
          found[f"{metric}/{name}"] = value
          of_groups.setdefault(f"{metric}_avg", []).append(value)
        found[f"num/{name}"] = base.count(values)
        num_truth += base.count(values)
    averages = {name: base.mean(values) for name, values in of_groups.items()}
    return {**averages, **found, "num_truth": num_truth, "num": num_rows}


def _scores(
  predicted: Sequence[str], true: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
  """{column: a value for each caption} of captions that are scored together."""
  scored: dict[str, Sequence[float]] = {}
  if "cider" in metrics or "bleu" in metrics:
    predicted_counts = [count(caption) for caption in predicted]
    true_counts = [[count(caption) for caption in captions] for captions in true]
    if "cider" in metrics:
      scored["cider"] = cider(predicted_counts, true_counts)
    if "bleu" in metrics:
      sums = [bleu_counts(*both) for both in zip(predicted_counts, true_counts, strict=True)]
      scored |= dict(zip(_BLEU_SUMS, np.reshape(sums, (-1, len(_BLEU_SUMS))).T, strict=True))
  if "rouge" in metrics:
    scored["rouge"] = [rouge_l(*both) for both in zip(predicted, true, strict=True)]
  if "meteor" in metrics:
    scored |= dict(zip(_METEOR_SUMS, meteor_counts(predicted, true).T, strict=True))
  if "spice" in metrics:
    scored["spice"] = spice(predicted, true)
  return {name: np.asarray(values, np.float64) for name, values in scored.items()}


def _means(table: base.Table) -> dict[str, float]:
  found: dict[str, float] = {
    name: base.mean_of(table[name]) for name in ("cider", "rouge", "spice") if name in table
  }
  if _METEOR_SUMS[0] in table:
    found["meteor"] = meteor_of(_sums(table, _METEOR_SUMS))
  if _BLEU_SUMS[0] in table:
    found |= dict(zip(_BLEU, bleu(_sums(table, _BLEU_SUMS)), strict=True))
  return found


def _sums(table: base.Table, columns: Sequence[str]) -> np.ndarray:
  return np.array([base.counting(table[name]).sum() for name in columns])


_SIGMA = 6.0  # Of CIDEr's length penalty, in bigrams.
_ROUGE_BETA = 1.2  # Weight of recall over precision in ROUGE-L.
_SMALL, _TINY = 1e-9, 1e-15  # BLEU's guards against division by zero, which affect zero counts.

# METEOR's parameters for English: the weights of exact words, stems, synonyms and paraphrases, of
# recall against precision, of the fragmentation penalty, and of content words.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75

# The counts of n-grams: a dict for each n from 1 to 4.
Counts = tuple[Mapping[tuple[str, ...], int], ...]


def count(caption: str) -> Counts:
  """The n-grams of a caption; a no-break space separates words here."""
  words = caption.split()
  return tuple(
    collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))
    for n in range(1, MAX_N + 1)
  )


def cider(captions: Sequence[Counts], references: Sequence[Sequence[Counts]]) -> list[float]:
  """CIDEr-D of each caption, on the official tool's scale, where 10 is perfect.

  The weight of an n-gram is log(images / images with it in a reference), so that a single image
  scores 0. Counts above the reference's are clipped; a different length, in bigrams as in the
  official code, is penalized.
  """
  num_with = collections.Counter(
    itertools.chain.from_iterable(
      set().union(*(counts[n] for counts in others)) for others in references for n in range(MAX_N)
    )
  )
  all_images = math.log(len(captions)) if captions else 0.0
  idf = {ngram: all_images - math.log(n) for ngram, n in num_with.items()}
  scores = []
  for counts, others in zip(captions, references, strict=True):
    weights, norms, length = _weighted(counts, idf, all_images)
    total = 0.0
    for other in others:
      other_weights, other_norms, other_length = _weighted(other, idf, all_images)
      cosines = 0.0
      for n in range(MAX_N):
        ours, theirs = weights[n], other_weights[n]
        product = sum(min(ours[g], theirs[g]) * theirs[g] for g in ours.keys() & theirs.keys())
        cosines += product / (norms[n] * other_norms[n]) if norms[n] and other_norms[n] else product
      total += cosines * math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))
    scores.append(10 * total / MAX_N / len(others))
  return scores


def _weighted(
  counts: Counts, idf: Mapping[tuple[str, ...], float], unseen: float
) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
  """For each n {n-gram: weight} and its norm, and the number of bigrams."""
  weights = [{g: k * idf.get(g, unseen) for g, k in grams.items()} for grams in counts]
  norms = [math.sqrt(sum(w * w for w in of_n.values())) for of_n in weights]
  return weights, norms, sum(counts[1].values())


def bleu_counts(caption: Counts, references: Sequence[Counts]) -> np.ndarray:
  """float64[10]: matching n-grams (n = 1 to 4), n-grams, words, words of the nearest reference.

  A count is clipped at its maximum over references. Of two equally near reference lengths the
  shorter one counts.
  """
  right = [
    sum(min(k, max(other[n].get(g, 0) for other in references)) for g, k in caption[n].items())
    for n in range(MAX_N)
  ]
  length = sum(caption[0].values())
  nearest = min((abs(n - length), n) for n in (sum(o[0].values()) for o in references))[1]
  guesses = [max(0, length - n) for n in range(MAX_N)]
  return np.array([*right, *guesses, length, nearest], np.float64)


def bleu(sums: np.ndarray) -> tuple[float, ...]:
  """BLEU-1 to BLEU-4 in [0, 1] from the sums of `bleu_counts`."""
  right, guesses = sums[:MAX_N].tolist(), sums[MAX_N : 2 * MAX_N].tolist()
  ratio = (float(sums[-2]) + _TINY) / (float(sums[-1]) + _SMALL)
  brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
  scores, product = [], 1.0
  for n in range(MAX_N):
    product *= (right[n] + _TINY) / (guesses[n] + _SMALL)
    scores.append(product ** (1 / (n + 1)) * brevity)
  return tuple(scores)


def rouge_l(caption: str, references: Sequence[str]) -> float:
  """ROUGE-L in [0, 1]: F of the best precision and the best recall over references.

  Only blanks separate words here, and an empty caption is one empty word.
  """
  words = caption.split(" ")
  precision = recall = 0.0
  for reference in references:
    other = reference.split(" ")
    common = _longest_common(words, other)
    precision = max(precision, common / len(words))
    recall = max(recall, common / len(other))
  if not precision or not recall:
    return 0.0
  return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
  """Length of the longest common subsequence; rows of the usual table are bits of an integer."""
  where: dict[str, int] = {}
  for i, word in enumerate(a):
    where[word] = where.get(word, 0) | 1 << i
  full = (1 << len(a)) - 1
  row = full  # A bit is 0 where the length increases.
  for word in b:
    found = row & where.get(word, 0)
    row = (row + found) | (row - found)
  return (~row & full).bit_count()


def meteor_counts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
  """float64[N, 23]: the counts of METEOR's program for each tokenized caption; they can be summed.

  Words of caption and reference, function words of both, for each kind of match the matched
  content and function words of both, fragments, and matched words of both.
  """
  tool = _module("meteor").Meteor()
  counts = np.zeros((len(captions), NUM_METEOR_COUNTS))
  for row, caption, true in zip(counts, captions, references, strict=True):
    line = tool._stat(_one_line(caption), [_one_line(text) for text in true])
    row[:] = [float(number) for number in line.split()]
    # The program's sums omit the single fragment of a caption that matches entirely.
    if row[20] == 1 and (row[4:20].reshape(4, 2, 2).sum(axis=(0, 1)) == row[:2]).all():
      row[20] = 0
  return counts


def meteor_of(counts: np.ndarray) -> float:
  """METEOR of captions together, from the sum of their counts, float64[23]."""
  lengths, function_words, matches = counts[:2], counts[2:4], counts[4:20].reshape(4, 2, 2)
  content, function = _WEIGHTS @ matches[:, 0], _WEIGHTS @ matches[:, 1]
  found = _DELTA * content + (1 - _DELTA) * function
  total = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
  if not found.all() or not total.all():
    return 0.0
  precision, recall = found / total
  fragments = counts[20] / (counts[21:].sum() / 2)
  mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
  return float(mean * (1 - _GAMMA * fragments**_BETA))


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
  """SPICE of each tokenized caption; the tool downloads language models at first use."""
  by_image = dict(enumerate(map(list, references))), {i: [c] for i, c in enumerate(captions)}
  try:
    _, scores = _module("spice").Spice().compute_score(*by_image)
  except OSError as e:
    raise errors.ConfigError(
      f"SPICE could not get its language models ({e}); it needs the network at first use."
    ) from None
  return [float(score["All"]["f"]) for score in scores]


def _one_line(text: str) -> str:
  """The text without '|||' and line breaks, which end fields and lines of the program."""
  return " ".join(text.replace("|||", " ").split())


def _module(name: str) -> Any:
  """The module of pycocoevalcap; ConfigError where it or Java is missing."""
  try:
    module = importlib.import_module(f"pycocoevalcap.{name}.{name}")
  except ImportError:
    raise errors.ConfigError(
      f"{name.upper()} needs pycocoevalcap: pip install pycocoevalcap (and Java)."
    ) from None
  if shutil.which("java") is None:
    raise errors.ConfigError(f"{name.upper()} needs Java: no program 'java' was found on the path.")
  return module
