"""Captions against true ones: CIDEr, BLEU, ROUGE-L; METEOR and SPICE where Java is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import caption_scores
from paligemma_jax.evals import ptb

_BLEU = tuple(f"bleu-{n + 1}" for n in range(caption_scores.MAX_N))
_BLEU_SUMS = tuple(f"bleu_sum_{i}" for i in range(2 * caption_scores.MAX_N + 2))
_METEOR_SUMS = tuple(f"meteor_sum_{i}" for i in range(caption_scores.NUM_METEOR_COUNTS))
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


@spec.spec
class CocoCaption(base.Metric):
  """The scores of captions, equal to those of pycocoevalcap, without Java.

  CIDEr is given as the official tool gives it; papers print 100 times that: 1.419 is their 141.9.
  It weighs words by how many of these very rows have them in a true caption, so it depends on which
  rows are scored together, and of a single row it is 0.

  Attributes:
    target: the column with a text, or with a list of texts. An empty list is a row without target:
      counted in `num`, scored nowhere.
    image_id: the column that tells the images apart in a COCO results file; '' writes no file.
    metrics: which of 'cider', 'bleu', 'rouge', 'meteor', 'spice'; the last two need Java and
      pycocoevalcap.
    tokens: how texts become words. 'ptb' is the official way, made for English, and what the
      reference does with captions of every language: those of COCO-35L come with blanks between
      words also where the script has none. 'characters' first parts the letters of such scripts
      (Chinese, Japanese, Thai, …), for texts that come without blanks; its numbers compare only
      with each other. 'blanks' takes the texts for tokenized ones.
    group: the column of a text, such as the language, by which rows are scored in groups, each as
      if it were alone; '' is all rows as one.
    beside: another column of true captions, such as the tokenized ones, against which the same
      captions are scored too; their metrics are called '<beside>/cider' and so on.
    parts: a column by which each part of the rows is scored once more, as if it were alone:
      'cider/<part>' and so on, beside the metrics of all rows.

  Metrics:
    cider, bleu-1 to bleu-4, rouge, meteor, spice: what was asked for. BLEU and METEOR are made of
      the matches of all captions, as the official tool prints them; the others are means over
      captions. The mean of single METEOR scores, which some print, is 3 to 9 points higher.
    cider_avg, …, cider/<group>, …, num/<group>: with `group` instead of these, the means over
      groups, and each group's.
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
        f"evals.CocoCaption: group={self.group!r} and parts={self.parts!r} both part the rows;"
        " give one of them."
      )

  def table(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> base.Table:
    """What each row adds; not row by row: a word weighs by how many of the rows have it."""
    return self._table(rows, outputs, self.target, self.group)

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """The metrics of the table, those beside them, and those of parts."""
    found = self.summary(self.table(rows, outputs))
    if self.beside:
      others = self.summary(self._table(rows, outputs, self.beside, self.group))
      found |= {f"{self.beside}/{name}": value for name, value in others.items()}
    if self.parts:
      by_part = self.summary(self._table(rows, outputs, self.target, self.parts))
      found |= {name: value for name, value in by_part.items() if "/" in name}
    return found

  def files(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, str]:
    """{name below `predictions/`: JSON list of image_id and caption, as COCO's tools read it}."""
    if not self.image_id:
      return {}
    results = []
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      with base.of_row(i):
        image_id = base.plain_id(row, self.image_id)
      results.append({"image_id": image_id, "caption": out.text})
    return {f"{self.name}.json": json.dumps(results, ensure_ascii=False)}

  def _table(
    self, rows: Sequence[base.Row], outputs: Sequence[base.Output], target: str, group: str
  ) -> base.Table:
    tokenize = TOKENS[self.tokens]
    predicted, true, groups = [], [], {}
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      with base.of_row(i):
        answers = base.answers(row, target)
        name = base.column(row, group) if group else ""
        if not isinstance(name, str):
          raise base.unexpected(row, group, "a text")
      predicted.append(tokenize(out.text))
      true.append([tokenize(answer) for answer in answers])
      if answers:
        groups.setdefault(name, []).append(i)
    # Those that a table has whatever its rows are.
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
    """The metrics above, of all rows as one or in groups."""
    num_rows = base.num_rows(table)
    if "has_truth" in table:
      return {**_means(table), "num_truth": base.count(table["has_truth"]), "num": num_rows}
    found, sums, num_truth = {}, {}, 0.0
    for column, values in table.items():
      if column.startswith(_GROUP) and base.count(values):
        name = column.removeprefix(_GROUP)
        members = base.take(table, np.flatnonzero(~np.isnan(values)))
        for metric, value in _means(members).items():
          found[f"{metric}/{name}"] = value
          sums.setdefault(f"{metric}_avg", []).append(value)
        found[f"num/{name}"] = base.count(values)
        num_truth += base.count(values)
    averages = {name: base.mean(values) for name, values in sums.items()}
    return {**averages, **found, "num_truth": num_truth, "num": num_rows}


def _scores(
  predicted: Sequence[str], true: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
  """{column: a value for each caption}, of captions that are scored together."""
  scored: dict[str, Sequence[float]] = {}
  if "cider" in metrics or "bleu" in metrics:
    predicted_counts = [caption_scores.count(caption) for caption in predicted]
    true_counts = [[caption_scores.count(caption) for caption in captions] for captions in true]
    if "cider" in metrics:
      scored["cider"] = caption_scores.cider(predicted_counts, true_counts)
    if "bleu" in metrics:
      sums = [
        caption_scores.bleu_counts(*both)
        for both in zip(predicted_counts, true_counts, strict=True)
      ]
      scored |= dict(zip(_BLEU_SUMS, np.reshape(sums, (-1, len(_BLEU_SUMS))).T, strict=True))
  if "rouge" in metrics:
    scored["rouge"] = [caption_scores.rouge_l(*both) for both in zip(predicted, true, strict=True)]
  if "meteor" in metrics:
    scored |= dict(zip(_METEOR_SUMS, caption_scores.meteor_counts(predicted, true).T, strict=True))
  if "spice" in metrics:
    scored["spice"] = caption_scores.spice(predicted, true)
  return {name: np.asarray(values, np.float64) for name, values in scored.items()}


def _means(table: base.Table) -> dict[str, float]:
  """The metrics of these rows together."""
  found = {}
  for name in ("cider", "rouge", "spice"):
    if name in table:
      found[name] = base.mean_of(table[name])
  if _METEOR_SUMS[0] in table:
    found["meteor"] = caption_scores.meteor_of(_sums(table, _METEOR_SUMS))
  if _BLEU_SUMS[0] in table:
    found |= dict(zip(_BLEU, caption_scores.bleu(_sums(table, _BLEU_SUMS)), strict=True))
  return found


def _sums(table: base.Table, columns: Sequence[str]) -> np.ndarray:
  return np.array([base.counting(table[name]).sum() for name in columns])
