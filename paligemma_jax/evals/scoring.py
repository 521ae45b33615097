"""Scores ready predictions by the name of a metric; no model, no evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.evals import base
from paligemma_jax.evals import bootstrap as bootstraps
from paligemma_jax.evals import boxes
from paligemma_jax.evals import captions
from paligemma_jax.evals import chartqa
from paligemma_jax.evals import detection
from paligemma_jax.evals import edits
from paligemma_jax.evals import mmvp
from paligemma_jax.evals import pope
from paligemma_jax.evals import rsvqa
from paligemma_jax.evals import science_qa
from paligemma_jax.evals import segmentation
from paligemma_jax.evals import tables
from paligemma_jax.evals import tallyqa
from paligemma_jax.evals import vqa
from paligemma_jax.evals import vqav2

METRICS: dict[str, Callable[..., dict[str, float]]] = {
  "box_accuracy": boxes.box_accuracy,
  "chartqa": chartqa.relaxed_accuracy,
  "coco_caption": captions.coco_caption,
  "coco_detection": detection.coco_detection,
  "error_rate": edits.error_rate,
  "exact_match": vqa.exact_match,
  "mmvp": mmvp.accuracy,
  "pope": pope.polling,
  "rsvqa": rsvqa.accuracy,
  "science_qa": science_qa.accuracy,
  "segmentation": segmentation.segmentation,
  "tallyqa": tallyqa.accuracy,
  "vqa_accuracy": vqa.vqa_accuracy,
  "vqav2": vqav2.accuracy,
}

Summary = Callable[[Mapping[str, np.ndarray]], dict[str, float]]

# Of metrics whose rows are scored one by one: the scores of each row, and what sums them up.
TABLES: dict[str, tuple[Callable[..., tables.Table], Summary]] = {
  "chartqa": (chartqa.table, chartqa.summary),
  "coco_caption": (captions.table, captions.summary),
  "error_rate": (edits.table, edits.summary),
  "exact_match": (vqa.exact_match_table, vqa.exact_match_summary),
  "mmvp": (mmvp.table, mmvp.summary),
  "pope": (pope.table, pope.summary),
  "rsvqa": (rsvqa.table, rsvqa.summary),
  "science_qa": (science_qa.table, science_qa.summary),
  "segmentation": (segmentation.table, segmentation.summary),
  "tallyqa": (tallyqa.table, tallyqa.summary),
  "vqa_accuracy": (vqa.vqa_table, vqa.vqa_summary),
  "vqav2": (vqav2.table, vqav2.summary),
}


def score(
  metric: str,
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  bootstrap: int = 0,
  seed: int = 0,
  **options: Any,
) -> dict[str, float]:
  """The named metric of `predictions[i]` against `rows[i]`, as {key: value}.

  Args:
    metric: a name in METRICS.
    predictions: the texts.
    rows: the columns that the metric reads, `suffix` unless `truth` says otherwise.
    bootstrap: how often the rows are drawn anew, as in 1000, for `<key>/low` and `<key>/high`: 95 %
      confidence intervals; 0 for none.
    seed: of these draws.
    **options: the metric's own, for instance `truth`, `lower`, `bins`.

  Raises:
    ConfigError: an unknown metric or option; the near match is named.
    DataError: as many predictions as rows are not there, or a row lacks a column.
  """
  function = errors.pick(METRICS, metric, "metric")
  known = _options(function)
  for name in options:
    if name not in known:
      raise errors.ConfigError(
        f"The metric {metric!r} has no option {name!r}.{errors.did_you_mean(name, known)}"
      )
  if len(predictions) != len(rows):
    raise errors.DataError(f"There are {len(predictions)} predictions but {len(rows)} rows.")
  for i, prediction in enumerate(predictions):
    if not isinstance(prediction, str):
      raise errors.DataError(f"Prediction {i} is {prediction!r}; expected a text.")
  found = function(predictions, rows, **options)
  if bootstrap:
    value_of = _value_of(metric, predictions, rows, options)
    found |= bootstraps.intervals(value_of, len(rows), num_samples=bootstrap, seed=seed)
  return found


def intervals(
  evaluator: base.Evaluator,
  rows: Sequence[Mapping[str, Any]],
  outputs: Sequence[base.Output],
  *,
  seed: int = 0,
) -> dict[str, float]:
  """Confidence intervals of what an evaluator scores, from `evaluator.bootstrap` draws of its rows.

  The scores of an evaluator's `table` are summed up for each draw where its class says by `metric`
  which metric's they are; the rows of any other evaluator are scored anew.
  """
  if evaluator.bootstrap < 1:
    return {}
  metric = getattr(evaluator, "metric", "")
  if metric in TABLES:
    value_of = bootstraps.of_table(evaluator.table(rows, outputs), TABLES[metric][1])
  else:

    def value_of(indices: Sequence[int]) -> dict[str, float]:
      return evaluator.score([rows[i] for i in indices], [outputs[i] for i in indices])

  return bootstraps.intervals(value_of, len(rows), num_samples=evaluator.bootstrap, seed=seed)


def _value_of(
  metric: str,
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  options: Mapping[str, Any],
) -> Callable[[Sequence[int]], dict[str, float]]:
  """The metric of some of the rows; their scores are looked up where it has a table."""
  if metric in TABLES:
    table, summary = TABLES[metric]
    return bootstraps.of_table(table(predictions, rows, **options), summary)
  return lambda indices: METRICS[metric](
    [predictions[i] for i in indices], [rows[i] for i in indices], **options
  )


def _options(function: Callable[..., Any]) -> list[str]:
  """Names of the keyword-only arguments."""
  return [
    p.name
    for p in inspect.signature(function).parameters.values()
    if p.kind is inspect.Parameter.KEYWORD_ONLY
  ]
