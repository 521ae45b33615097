"""Scores ready predictions by the name of a metric; no model, no evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.evals import boxes
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
    **options: Any,
) -> dict[str, float]:
  """The named metric of `predictions[i]` against `rows[i]`, as {key: value}.

  Args:
    metric: a name in METRICS.
    predictions: the texts.
    rows: the columns that the metric reads, `suffix` unless `truth` says otherwise.
    **options: the metric's own, for instance `truth`, `lower`, `bins`.

  Raises:
    ConfigError: an unknown metric or option; the near match is named.
    DataError: as many predictions as rows are not there, or a row lacks a column.
  """
  function = errors.pick(METRICS, metric, "metric")
  known = [
      p.name
      for p in inspect.signature(function).parameters.values()
      if p.kind is inspect.Parameter.KEYWORD_ONLY
  ]
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
  return function(predictions, rows, **options)
