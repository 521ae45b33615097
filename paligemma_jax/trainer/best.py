"""The metric by which the best checkpoint is kept: whether there is one, what it was at a step."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import ml_collections

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.trainer import metrics as metrics_lib
from paligemma_jax.trainer import workdir as workdirs


def check_name(config: ml_collections.ConfigDict) -> None:
  """Passes when `ckpt.best` is '' or a metric that its evaluator can have.

  What evaluators of other people's measure, and scores by kinds that only the rows name, are known
  when they first ran: `check_found`.

  Raises:
    ConfigError: naming the near match.
  """
  best, evaluator = config.ckpt.best, _evaluator(config)
  if evaluator is None or type(evaluator) not in evals.EVALUATORS.values():
    return
  metric = best.removeprefix(f"{evaluator.name}/")
  known = evaluator.score([], [])
  if evaluator.bootstrap:
    metric = metric.removesuffix("/low").removesuffix("/high")
  if metric not in known and "/" not in metric:
    raise errors.ConfigError(_unknown(best, [f"{evaluator.name}/{name}" for name in known]))


def check_found(config: ml_collections.ConfigDict, results: Mapping[str, float]) -> None:
  """Passes when the metric is among those that its evaluator found, or that did not run.

  Raises:
    ConfigError: naming the near match.
  """
  best, evaluator = config.ckpt.best, _evaluator(config)
  known = [name for name in results if evaluator and name.startswith(f"{evaluator.name}/")]
  if known and best not in results:
    raise errors.ConfigError(_unknown(best, known))


def scores(best: str, lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
  """{step: value of the metric} in lines of metrics.jsonl; of steps that can be saved: not 0."""
  return {line["step"]: line[best] for line in lines if line["step"] and best in line}


def summary(ckpt: ml_collections.ConfigDict, workdir: workdirs.Workdir, saved: int) -> str:
  """One sentence on which step was the best and where it is.

  Args:
    ckpt: the config section.
    saved: the best step that is saved; 0 when there is none.
  """
  best = ckpt.best
  values = scores(best, metrics_lib.read(workdir.metrics))
  if not values:
    return f"best {best}: it was never measured, so no step is kept for it"
  top = (max if ckpt.best_mode == "max" else min)(values.values())
  if values.get(saved) != top:
    where = max(s for s, value in values.items() if value == top)
    return f"best {best}: {top:.6g} at step {where}, whose state is not saved"
  return f"best {best}: {top:.6g} at step {saved}, saved in {workdir.checkpoints}/{saved}"


def _evaluator(config: ml_collections.ConfigDict) -> evals.Evaluator | None:
  """The one that `ckpt.best` is a metric of; None when it is ''."""
  named = [e for e in config.evals if config.ckpt.best.startswith(f"{e.name}/")]
  return max(named, key=lambda e: len(e.name), default=None)


def _unknown(best: str, known: list[str]) -> str:
  return f"ckpt.best={best!r} is no metric of its evaluator.{errors.did_you_mean(best, known)}"
