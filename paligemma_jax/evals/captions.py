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
from paligemma_jax.evals import ptb
from paligemma_jax.evals import tables

_BLEU = tuple(f"bleu-{n + 1}" for n in range(ngrams.MAX_N))
_BLEU_SUMS = tuple(f"bleu_sum_{i}" for i in range(2 * ngrams.MAX_N + 2))
_METEOR_SUMS = tuple(f"meteor_sum_{i}" for i in range(java_captions.NUM_METEOR_COUNTS))
# The columns of the table that each asked-for metric makes.
COLUMNS = {
  "bleu": _BLEU_SUMS,
  "cider": ("cider",),
  "meteor": _METEOR_SUMS,
  "rouge": ("rouge",),
  "spice": ("spice",),
}

_GROUP = "in/"  # Before a group's name: the column that is 1 for its rows.

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
  group: str = "",
) -> tables.Table:
  """What each row adds; a row without true captions counts nowhere. See `coco_caption`."""
  for name in metrics:
    errors.pick(COLUMNS, name, "metric of captions")
  tokenize = errors.pick(TOKENS, tokens, "way to make words of captions")
  said, true, groups = [], [], {}
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    answers = base.answers_of(base.column(row, truth, i), truth, i)
    said.append(tokenize(prediction))
    true.append([tokenize(answer) for answer in answers])
    name = _group(row, group, i)
    if answers:
      groups.setdefault(name, []).append(i)
  found: dict[str, np.ndarray] = {}
  for name, places in groups.items():
    scores = _scores([said[i] for i in places], [true[i] for i in places], metrics)
    scores |= {_GROUP + name if group else "has_truth": np.ones(len(places))}
    for column, values in scores.items():
      found.setdefault(column, np.full(len(rows), tables.NONE))[places] = values
  empty = dict.fromkeys(_columns(metrics, group), np.full(len(rows), tables.NONE))
  return {**empty, **found}


def _group(row: Mapping[str, Any], column: str, i: int) -> str:
  value = base.column(row, column, i) if column else ""
  if not isinstance(value, str):
    raise errors.DataError(
      f"Row {i} of those to score: column {column!r} holds {value!r}; expected a text."
    )
  return value


def _scores(
  said: Sequence[str], true: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
  """{column: a value for each caption}, of captions that are scored together."""
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
  if "meteor" in metrics:
    scored |= dict(zip(_METEOR_SUMS, java_captions.meteor_counts(said, true).T, strict=True))
  if "spice" in metrics:
    scored["spice"] = java_captions.spice(said, true)
  return {name: np.asarray(values, np.float64) for name, values in scored.items()}


def _columns(metrics: Sequence[str], group: str) -> list[str]:
  """Those that a table has whatever its rows are."""
  columns = [column for name in metrics for column in COLUMNS[name]]
  return columns if group else [*columns, "has_truth"]


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `coco_caption`."""
  if "has_truth" in table:
    num_rows, num_truth = len(table["has_truth"]), tables.count(table["has_truth"])
    return {**_means(table), "num_truth": num_truth, "num": float(num_rows)}
  found, sums = {}, {}
  num_truth = num_rows = 0.0
  for column, values in table.items():
    num_rows = float(len(values))
    if column.startswith(_GROUP) and tables.count(values):
      name = column.removeprefix(_GROUP)
      members = tables.take(table, np.flatnonzero(~np.isnan(values)))
      for metric, value in _means(members).items():
        found[f"{metric}/{name}"] = value
        sums.setdefault(f"{metric}_avg", []).append(value)
      found[f"num/{name}"] = tables.count(values)
      num_truth += tables.count(values)
  averages = {name: base.mean(values) for name, values in sums.items()}
  return {**averages, **found, "num_truth": num_truth, "num": num_rows}


def _means(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of these rows together."""
  found = {}
  for name in ("cider", "rouge", "spice"):
    if name in table:
      found[name] = tables.mean(table[name])
  if _METEOR_SUMS[0] in table:
    found["meteor"] = java_captions.meteor_of(_sums(table, _METEOR_SUMS))
  if _BLEU_SUMS[0] in table:
    found |= dict(zip(_BLEU, ngrams.bleu(_sums(table, _BLEU_SUMS)), strict=True))
  return found


def _sums(table: Mapping[str, np.ndarray], columns: Sequence[str]) -> np.ndarray:
  return np.array([tables.counting(table[name]).sum() for name in columns])


def coco_caption(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "captions",
  metrics: Sequence[str] = ("cider",),
  tokens: str = "ptb",
  group: str = "",
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
    group: the column of a text, such as the language, by which rows are scored in groups, each as
      if it were alone; '' is all rows as one.

  Returns:
    cider, bleu-1 to bleu-4, rouge, meteor, spice: what was asked for. BLEU and METEOR are made of
      the matches of all captions, as the official tool prints them; the others are means over
      captions. The mean of single METEOR scores, which some print, is 3 to 9 points higher.
    cider_avg, …, cider/<group>, …, num/<group>: with `group` instead of these, the means over
      groups, and each group's.
    num_truth, num: rows with true captions, and all rows.
  """
  options = dict(truth=truth, metrics=metrics, tokens=tokens, group=group)
  return summary(table(predictions, rows, **options))


@spec.spec
class CocoCaption(base.Evaluator):
  """CIDEr and its kin of the decoded captions; writes them as a COCO results file.

  Attributes:
    truth, metrics, tokens, group: as in `coco_caption`.
    beside: another column of true captions, such as the tokenized ones, against which the same
      captions are scored too; their metrics are called '<beside>/cider' and so on.
    parts: a column by which each part of the rows is scored once more, as if it were alone:
      'cider/<part>' and so on, beside the metrics of all rows.
    image_id: the column that tells the images apart in the results file; '' writes no file.
  """

  truth: str = "captions"
  image_id: str = "image_id"
  metrics: tuple = ("cider",)
  tokens: str = "ptb"
  group: str = ""
  beside: str = ""
  parts: str = ""

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
    if self.group and self.parts:
      raise errors.ConfigError(
        f"evals.CocoCaption: group={self.group!r} and parts={self.parts!r} both part the rows;"
        " give one of them."
      )

  def columns(self) -> tuple[str, ...]:
    """The columns of true captions, of the image's id, of the group and of the part."""
    names = (self.truth, self.image_id, self.group, self.beside, self.parts)
    return tuple(dict.fromkeys(name for name in names if name))

  def table(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> tables.Table:
    """What each row adds."""
    return self._table(rows, outputs)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `coco_caption`, those beside them, and those of parts."""
    found = summary(self.table(rows, outputs))
    if self.beside:
      others = summary(self._table(rows, outputs, truth=self.beside))
      found |= {f"{self.beside}/{name}": value for name, value in others.items()}
    if self.parts:
      by_part = summary(self._table(rows, outputs, group=self.parts))
      found |= {name: value for name, value in by_part.items() if "/" in name}
    return found

  def files(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, str]:
    """{name below `predictions/`: JSON list of image_id and caption, as COCO's tools read it}."""
    if not self.image_id:
      return {}
    results = []
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      image_id = base.plain_id(base.column(row, self.image_id, i), self.image_id)
      results.append({"image_id": image_id, "caption": out.text})
    return {f"{self.name}.json": json.dumps(results, ensure_ascii=False)}

  def _table(
    self,
    rows: Sequence[Mapping[str, Any]],
    outputs: Sequence[base.Output],
    **changes: str,
  ) -> tables.Table:
    options = dict(truth=self.truth, metrics=self.metrics, tokens=self.tokens, group=self.group)
    return table([o.text for o in outputs], rows, **{**options, **changes})
