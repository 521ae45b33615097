"""Captions against true ones: CIDEr, BLEU, ROUGE-L; METEOR and SPICE where Java is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import java_captions
from paligemma_jax.evals import ngrams
from paligemma_jax.evals import output
from paligemma_jax.evals import ptb
from paligemma_jax.evals import tables

_BLEU = tuple(f"bleu-{n + 1}" for n in range(ngrams.MAX_N))
_BLEU_SUMS = tuple(f"bleu_sum_{i}" for i in range(2 * ngrams.MAX_N + 2))
# The columns of the table that each asked-for metric makes.
COLUMNS = {
    "bleu": _BLEU_SUMS,
    "cider": ("cider",),
    "meteor": ("meteor",),
    "rouge": ("rouge",),
    "spice": ("spice",),
}

# Letters of scripts without blanks between words, each with the marks that belong to it: Thai, Lao,
# Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[ก-\u0e30\u0e32\u0e33\u0e40-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*"
    "|[\u0e80-\u0eb0\u0eb2\u0eb3\u0ebd-\u0eff][\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd]*"
    "|[\u1000-\u102a\u103f-\u109f][\u102b-\u103e]*|[\u1780-\u17b3][\u17b4-\u17d3]*"
    "|[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)


def _characters(text: str) -> str:
  return ptb.tokenize(_UNSPACED.sub(r" \g<0> ", text))


# How a text becomes its words with single blanks between.
TOKENS: dict[str, Callable[[str], str]] = {
    "ptb": ptb.tokenize,
    "blanks": str,
    "characters": _characters,
}


def table(
    predictions: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    truth: str = "captions",
    metrics: Sequence[str] = ("cider",),
    tokens: str = "ptb",
) -> tables.Table:
  """What each row adds; a row without true captions counts nowhere. See `coco_caption`."""
  for name in metrics:
    errors.pick(COLUMNS, name, "metric of captions")
  tokenize = errors.pick(TOKENS, tokens, "way to make words of captions")
  said, true, places = [], [], []
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    if answers:
      places.append(i)
      said.append(tokenize(prediction))
      true.append([tokenize(answer) for answer in answers])
  scored: dict[str, Sequence[float]] = {}
  if "cider" in metrics or "bleu" in metrics:
    said_counts = [ngrams.count(caption) for caption in said]
    true_counts = [[ngrams.count(caption) for caption in captions] for captions in true]
    if "cider" in metrics:
      scored["cider"] = ngrams.cider(said_counts, true_counts)
    if "bleu" in metrics:
      sums = [ngrams.bleu_counts(*both) for both in zip(said_counts, true_counts, strict=True)]
      scored |= dict(zip(_BLEU_SUMS, np.reshape(sums, (-1, len(_BLEU_SUMS))).T, strict=True))
  if "rouge" in metrics:
    scored["rouge"] = [ngrams.rouge_l(*both) for both in zip(said, true, strict=True)]
  for name in ("meteor", "spice"):
    if name in metrics:
      scored[name] = java_captions.SCORERS[name](said, true) if said else []
  found = {name: np.full(len(rows), tables.NONE) for name in scored}
  for name, values in scored.items():
    found[name][places] = values
  has_truth = np.full(len(rows), tables.NONE)
  has_truth[places] = 1.0
  return {**found, "has_truth": has_truth}


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `coco_caption`."""
  found = {}
  for name in ("cider", "rouge", "meteor", "spice"):
    if name in table:
      found[name] = tables.mean(table[name])
  if _BLEU_SUMS[0] in table:
    sums = np.array([tables.counting(table[name]).sum() for name in _BLEU_SUMS])
    found |= dict(zip(_BLEU, ngrams.bleu(sums), strict=True))
  return {
      **found,
      "num_truth": tables.count(table["has_truth"]),
      "num": float(len(table["has_truth"])),
  }


def coco_caption(
    predictions: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    truth: str = "captions",
    metrics: Sequence[str] = ("cider",),
    tokens: str = "ptb",
) -> dict[str, float]:
  """The scores of captions, equal to those of pycocoevalcap, without Java.

  CIDEr is given as the official tool gives it; papers print 100 times that: 1.419 is their 141.9.
  It weighs words by how many of these very rows have them in a true caption, so it depends on which
  rows are scored together, and of a single row it is 0.

  Args:
    predictions: one caption per row.
    rows: each has the column `truth`: a text, or a list of texts. An empty list is a row without
      truth: counted in `num`, scored nowhere.
    truth: the name of that column.
    metrics: which of 'cider', 'bleu', 'rouge', 'meteor', 'spice'; the last two need Java and
      pycocoevalcap.
    tokens: how texts become words. 'ptb' is the official way, made for English, and what the
      reference does with captions of every language: those of COCO-35L come with blanks between
      words also where the script has none. 'characters' first parts the letters of such scripts
      (Chinese, Japanese, Thai, …), for texts that come without blanks; its numbers compare only
      with each other. 'blanks' takes the texts for tokenized ones.

  Returns:
    cider, bleu-1 to bleu-4, rouge, meteor, spice: what was asked for. All but BLEU are means over
      captions; the figure that the official tool prints for METEOR pools all captions' matches
      instead and lies near it.
    num_truth, num: rows with true captions, and all rows.
  """
  return summary(table(predictions, rows, truth=truth, metrics=metrics, tokens=tokens))


@spec.spec
class CocoCaption(base.Evaluator):
  """CIDEr and its kin of the decoded captions; writes them as a COCO results file.

  Attributes:
    truth, metrics, tokens: as in `coco_caption`.
    image_id: the column that tells the images apart in the results file; '' writes no file.
  """

  truth: str = "captions"
  image_id: str = "image_id"
  metrics: tuple = ("cider",)
  tokens: str = "ptb"

  metric = "coco_caption"

  def __post_init__(self):
    if isinstance(self.metrics, str) or not self.metrics:
      raise errors.ConfigError(
          f"evals.CocoCaption: metrics={self.metrics!r} must be a tuple of names, as in"
          " ('cider', 'bleu')."
      )
    for name in self.metrics:
      errors.pick(COLUMNS, name, "metric of evals.CocoCaption")
    errors.pick(TOKENS, self.tokens, "tokens of evals.CocoCaption")

  def columns(self) -> tuple[str, ...]:
    """The columns of the true captions and of the image's id."""
    return tuple(name for name in (self.truth, self.image_id) if name)

  def table(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> tables.Table:
    """What each row adds."""
    texts = [o.text for o in outputs]
    return table(texts, rows, truth=self.truth, metrics=self.metrics, tokens=self.tokens)

  def score(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> dict[str, float]:
    """The metrics of `coco_caption`."""
    return summary(self.table(rows, outputs))

  def files(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> dict[str, str]:
    """{name below `predictions/`: JSON list of image_id and caption, as COCO's tools read it}."""
    if not self.image_id:
      return {}
    results = []
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      image_id = base.column(row, self.image_id, i)
      image_id = image_id.item() if hasattr(image_id, "item") else image_id
      if isinstance(image_id, bytes):
        image_id = image_id.decode("utf-8", "replace")
      results.append({"image_id": image_id, "caption": out.text})
    try:
      return {f"{self.name}.json": json.dumps(results, ensure_ascii=False)}
    except TypeError as e:
      raise errors.DataError(
          f"The column {self.image_id!r} is no id: {e}; name another one by `image_id`."
      ) from None
