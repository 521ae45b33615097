"""Scores ready predictions by the name of a metric; no model, no evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.evals import boxes
from paligemma_jax.evals import vqa

METRICS: dict[str, Callable[..., dict[str, float]]] = {
    "box_accuracy": boxes.box_accuracy,
    "exact_match": vqa.exact_match,
    "vqa_accuracy": vqa.vqa_accuracy,
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
