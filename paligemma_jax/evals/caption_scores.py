"""Caption scores on words, as the official tool computes them: CIDEr-D, BLEU-1 to 4, ROUGE-L.

METEOR and SPICE exist as Java programs alone: those that pycocoevalcap brings along. METEOR's
counts what matches; its score of some captions together, which is what papers print, is made of the
sums of their counts, as in the program's own (METEOR 1.5, Denkowski and Lavie, 2014).

A caption is its words with single blanks between (see `ptb.tokenize`). Each function returns values
per caption: what a corpus scores is a mean of them (CIDEr, ROUGE-L, SPICE) or follows from sums.
"""

from __future__ import annotations

import collections
import itertools
import math
import shutil
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors

MAX_N = 4
_SIGMA = 6.0  # Of the penalty for another length, in bigrams.
_ROUGE_BETA = 1.2  # Weight of recall over precision in ROUGE-L.
# BLEU's guards against division by zero; with the guess they decide what a zero count scores.
_SMALL, _TINY = 1e-9, 1e-15

NUM_METEOR_COUNTS = 23

# METEOR's parameters for English: the weights of exact words, stems, synonyms and paraphrases, of
# recall against precision, of the penalty for pieces, and of content words.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75

# How often each n-gram occurs: a dict for each n from 1 to 4.
Counts = tuple[Mapping[tuple[str, ...], int], ...]


def count(caption: str) -> Counts:
  """The n-grams of a caption; a no-break space parts words here."""
  words = caption.split()
  return tuple(
    collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))
    for n in range(1, MAX_N + 1)
  )


def cider(captions: Sequence[Counts], references: Sequence[Sequence[Counts]]) -> list[float]:
  """CIDEr-D of each caption, on the official tool's scale: 10 is perfect, papers print 100 x it.

  An n-gram weighs log(images / images with it in a reference), so that one image alone scores 0.
  Counts above the reference's are clipped; another length is punished, and as in the official code
  the length is the number of bigrams.
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
  """For each n ({n-gram: weight}, their norm), and the number of bigrams."""
  weights = [{g: k * idf.get(g, unseen) for g, k in grams.items()} for grams in counts]
  norms = [math.sqrt(sum(w * w for w in of_n.values())) for of_n in weights]
  return weights, norms, sum(counts[1].values())


def bleu_counts(caption: Counts, references: Sequence[Counts]) -> np.ndarray:
  """float64[10]: right n-grams (n = 1 to 4), n-grams, words, words of the nearest reference.

  A count is clipped at the reference that has the n-gram most often. Of two equally near reference
  lengths the shorter one counts.
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
  """ROUGE-L in [0, 1]: F of the best precision and the best recall, also of different references.

  Only blanks part words here, and an empty caption is one empty word.
  """
  words = caption.split(" ")
  precision = recall = 0.0
  for other in _split(references):
    common = _longest_common(words, other)
    precision = max(precision, common / len(words))
    recall = max(recall, common / len(other))
  if not precision or not recall:
    return 0.0
  return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _split(captions: Sequence[str]) -> Iterator[list[str]]:
  return (caption.split(" ") for caption in captions)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
  """Length of the longest common subsequence; the rows of the usual table are bits of a number."""
  where: dict[str, int] = {}
  for i, word in enumerate(a):
    where[word] = where.get(word, 0) | 1 << i
  full = (1 << len(a)) - 1
  row = full  # A bit is 0 where the length grows.
  for word in b:
    found = row & where.get(word, 0)
    row = (row + found) | (row - found)
  return (~row & full).bit_count()


def meteor_counts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
  """float64[N, 23]: what METEOR's program counts in each tokenized caption, fit to be summed.

  Words of caption and reference, function words of both, for each kind of match the matched
  content and function words of both, pieces, and matched words of both.
  """
  tool = _module("meteor").Meteor()
  counts = np.zeros((len(captions), NUM_METEOR_COUNTS))
  for row, caption, true in zip(counts, captions, references, strict=True):
    line = tool._stat(_one_line(caption), [_one_line(text) for text in true])
    row[:] = [float(number) for number in line.split()]
    # The program's sums leave out the one piece of a caption that matches as a whole.
    if row[20] == 1 and (_matched(row) == row[:2]).all():
      row[20] = 0
  return counts


def meteor_of(counts: np.ndarray) -> float:
  """METEOR of captions together, from the sums of their counts, float64[23]."""
  lengths, function_words, matches = counts[:2], counts[2:4], counts[4:20].reshape(4, 2, 2)
  content, function = _WEIGHTS @ matches[:, 0], _WEIGHTS @ matches[:, 1]
  found = _DELTA * content + (1 - _DELTA) * function
  there = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
  if not found.all() or not there.all():
    return 0.0
  precision, recall = found / there
  pieces = counts[20] / (counts[21:].sum() / 2)
  mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
  return float(mean * (1 - _GAMMA * pieces**_BETA))


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
  """SPICE of each tokenized caption; the tool downloads language models at first use."""
  module = _module("spice")
  try:
    _, scores = module.Spice().compute_score(*_as_official(captions, references))
  except OSError as e:
    raise errors.ConfigError(
      f"SPICE could not get its language models ({e}); it needs the network at first use."
    ) from None
  return [float(score["All"]["f"]) for score in scores]


def _matched(counts: np.ndarray) -> np.ndarray:
  """Words of caption and reference that match in any way."""
  return counts[4:20].reshape(4, 2, 2).sum(axis=(0, 1))


def _one_line(text: str) -> str:
  """As the program takes it, whose fields end in '|||' and whose lines in a line break."""
  return " ".join(text.replace("|||", " ").split())


def _module(name: str) -> Any:
  """The module of pycocoevalcap, or a ConfigError that says what to install."""
  try:
    if name == "meteor":
      from pycocoevalcap.meteor import meteor as module
    else:
      from pycocoevalcap.spice import spice as module
  except ImportError:
    raise errors.ConfigError(
      f"{name.upper()} needs pycocoevalcap: pip install pycocoevalcap (and Java)."
    ) from None
  if shutil.which("java") is None:
    raise errors.ConfigError(f"{name.upper()} needs Java: no program 'java' was found on the path.")
  return module


def _as_official(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
  """(references, captions) by number, as the tool takes them."""
  return dict(enumerate(map(list, references))), {i: [c] for i, c in enumerate(captions)}
