"""METEOR and SPICE, which exist as Java programs alone: those that pycocoevalcap brings along.

METEOR's program counts what matches. The score of some captions together, which is what papers
print, is made of the sums of their counts, as in the program's own (METEOR 1.5, Denkowski and
Lavie, 2014), so that it is known of any selection of rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors

NUM_METEOR_COUNTS = 23

# METEOR's parameters for English: the weights of exact words, stems, synonyms and paraphrases, of
# recall against precision, of the penalty for pieces, and of content words.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75


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
