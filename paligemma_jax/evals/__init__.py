"""Metrics as pure functions of texts and rows, and the evaluators of configs. No JAX.

`METRICS` has the built-in metrics: the name for `score`, and the class for configs. A new one
needs its import and its line there, and no more. A metric of your own is any class declared with
`@spec` that derives from `Metric` and has `score_row`; docs/metrics.md shows one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.evals.base import Evaluator
from paligemma_jax.evals.base import Metric
from paligemma_jax.evals.base import Output
from paligemma_jax.evals.base import of_evaluator as intervals
from paligemma_jax.evals.benchmarks import ChartQa
from paligemma_jax.evals.benchmarks import Pope
from paligemma_jax.evals.benchmarks import ScienceQa
from paligemma_jax.evals.benchmarks import TallyQa
from paligemma_jax.evals.captions import CocoCaption
from paligemma_jax.evals.detection import CocoDetection
from paligemma_jax.evals.localization import BoxAccuracy
from paligemma_jax.evals.localization import Segmentation
from paligemma_jax.evals.predictions import Perplexity
from paligemma_jax.evals.predictions import ServerFile
from paligemma_jax.evals.predictions import WritePredictions
from paligemma_jax.evals.vqa import ErrorRate
from paligemma_jax.evals.vqa import ExactMatch
from paligemma_jax.evals.vqa import Mmvp
from paligemma_jax.evals.vqa import Rsvqa
from paligemma_jax.evals.vqa import VqaAccuracy
from paligemma_jax.evals.vqa import VqaV2Accuracy

METRICS: dict[str, type[Evaluator]] = {
  "box_accuracy": BoxAccuracy,
  "chartqa": ChartQa,
  "coco_caption": CocoCaption,
  "coco_detection": CocoDetection,
  "error_rate": ErrorRate,
  "exact_match": ExactMatch,
  "mmvp": Mmvp,
  "pope": Pope,
  "rsvqa": Rsvqa,
  "science_qa": ScienceQa,
  "segmentation": Segmentation,
  "tallyqa": TallyQa,
  "vqa_accuracy": VqaAccuracy,
  "vqav2": VqaV2Accuracy,
}
# The metrics, and the evaluators that need more than texts.
EVALUATORS: dict[str, type[Evaluator]] = {
  cls.__name__: cls for cls in (*METRICS.values(), Perplexity, ServerFile, WritePredictions)
}

__all__ = ["EVALUATORS", "METRICS", "Evaluator", "Metric", "Output", "intervals", "score"]
__all__ += list(EVALUATORS)


def score(
  metric: str,
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  bootstrap: int = 0,
  seed: int = 0,
  **options: Any,
) -> dict[str, float]:
  """The named metric of `predictions[i]` against `rows[i]`, as {key: value}; needs no model.

  Args:
    metric: a name in METRICS; rows have the columns that it reads.
    bootstrap: how often the rows are resampled, as in 1000, for `<key>/low` and `<key>/high`: 95 %
      confidence intervals; 0 is none.
    seed: of the resampling.
    **options: the fields of the metric's class, such as `target`, `lower` or `bins`, and sequences
      with a value per prediction, such as `scores` of 'coco_detection'.

  ConfigError of an unknown metric or option, DataError where predictions and rows differ in number,
  or a row lacks a column.
  """
  cls = errors.pick(METRICS, metric, "metric")
  shared = {field.name for field in dataclasses.fields(Evaluator)}
  own = [field.name for field in dataclasses.fields(cls) if field.name not in shared]
  for name in options:
    if name not in (*own, *cls.per_output):
      hint = errors.did_you_mean(name, [*own, *cls.per_output])
      raise errors.ConfigError(f"The metric {metric!r} has no option {name!r}.{hint}")
  if len(predictions) != len(rows):
    raise errors.DataError(f"There are {len(predictions)} predictions but {len(rows)} rows.")
  for i, prediction in enumerate(predictions):
    if not isinstance(prediction, str):
      raise errors.DataError(f"Prediction {i} is {prediction!r}; expected a text.")
  given = {name: options.pop(name) for name in cls.per_output if name in options}
  given = {name: values for name, values in given.items() if values is not None}
  for name, values in given.items():
    if len(values) != len(rows):
      raise errors.DataError(f"There are {len(rows)} predictions but {len(values)} {name}.")
  outputs = [
    Output(i, text, **{name: values[i] for name, values in given.items()})
    for i, text in enumerate(predictions)
  ]
  evaluator = cls(metric, None, bootstrap=bootstrap, **options)
  return evaluator.score(rows, outputs) | intervals(evaluator, rows, outputs, seed=seed)
