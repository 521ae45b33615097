"""Follows columns from a source through its row ops to those who read them, without a row read."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import ml_collections

from paligemma_jax.config import schema
from paligemma_jax.config import value_checks
from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.core import sampling_options
from paligemma_jax.core import spec as specs
from paligemma_jax.regions import answer_forms

_TRAIN_COLUMNS = ("image", "prefix", "suffix")
_EVAL_COLUMNS = {"train": _TRAIN_COLUMNS, "decode": ("image", "prefix")}
_LEAST = {"batch_size": 1, "max_len": 1, "text_len": 2, "limit": 0, "best_of": 1, "beam_size": 1}
_OVERFLOW = schema.flat()["train.overflow"].choices


def training(config: ml_collections.ConfigDict) -> Iterator[str]:
  """What is wrong with the columns of the training rows."""
  wanted = dict.fromkeys(_TRAIN_COLUMNS, "training")
  yield from _flow("train", config.model.res, config.train.source, config.train.pp, wanted)


def evaluators(config: ml_collections.ConfigDict) -> Iterator[str]:
  """What is wrong with the evaluators: their names, numbers, and the columns they read."""
  seen: set[str] = set()
  for i, evaluator in enumerate(config.evals):
    known = isinstance(evaluator, protocols.Evaluator)
    if not known or evaluator.encoding not in _EVAL_COLUMNS:
      yield f"evals[{i}] is {evaluator!r}, which is no evaluator of paligemma_jax.evals."
      continue
    name = evaluator.name
    if not isinstance(name, str) or not name.strip("/"):
      yield f"evals[{i}]: its name must be a text such as 'val/acc', not {name!r}."
      continue
    if name in seen:
      yield f"Two evaluators are called {name!r}; their metrics could not be told apart."
    seen.add(name)
    what = f"evaluator {name!r}"
    try:
      value_checks.check("duration", f"{what}: every", evaluator.every)
    except errors.ConfigError as e:
      yield str(e)
    for field, low in _LEAST.items():
      value = getattr(evaluator, field)
      if type(value) is not int or value < low:
        yield f"{what}: {field} must be a whole number of at least {low}, not {value!r}."
    if not _are_texts(evaluator.banned):
      yield f"{what}: banned must be a tuple of texts of tokens, not {evaluator.banned!r}."
    if evaluator.overflow not in _OVERFLOW:
      known = ", ".join(map(repr, _OVERFLOW))
      yield f"{what}: overflow must be one of {known}, not {evaluator.overflow!r}."
    if not isinstance(evaluator.sampler, str):
      yield f"{what}: sampler must be a text such as 'greedy', not {evaluator.sampler!r}."
    for problem in sampling_options.problems(evaluator):
      yield f"{what}: {problem}"
    if not isinstance(evaluator.constraint, (type(None), *answer_forms.CONSTRAINTS.values())):
      known = ", ".join(f"constraints.{name}" for name in answer_forms.CONSTRAINTS)
      yield f"{what}: constraint must be None or one of {known}, not {evaluator.constraint!r}."
    if not specs.is_spec(evaluator.source):
      yield f"{what}: its source must be a spec of paligemma_jax.sources, not {evaluator.source!r}."
      continue
    try:
      value_checks.check("specs", f"{what}: pp", evaluator.pp)
    except errors.ConfigError as e:
      yield str(e)
      continue
    wanted = dict.fromkeys(_EVAL_COLUMNS[evaluator.encoding], f"the {evaluator.encoding} encoding")
    wanted |= {c: type(evaluator).__name__ for c in evaluator.columns() if c not in wanted}
    yield from _flow(what, config.model.res, evaluator.source, evaluator.pp, wanted)


def _are_texts(value: Any) -> bool:
  return isinstance(value, tuple) and all(isinstance(v, str) for v in value)


def _flow(
  what: str, res: int, source: Any, ops: tuple[Any, ...], wanted: Mapping[str, str]
) -> Iterator[str]:
  """Follows the columns from the source through the ops to those who read them.

  Args:
    wanted: {column: who reads it at the end}.
  """
  if not isinstance(source, protocols.Source):
    yield f"{what}: its source {source!r} is no source of paligemma_jax.sources."
    return
  if isinstance(source, protocols.CanHaveParts):
    for j, part in enumerate(source.parts):
      yield from _flow(f"{what}: parts[{j}]", res, part.source, (*part.pp, *ops), wanted)
    return
  columns = list(source.makes())
  known = bool(columns)  # () says that only the data can tell.
  size = 0  # Of the image, where an op sets it.
  for i, op in enumerate(ops):
    if not isinstance(op, protocols.Op):
      yield f"{what}: pp[{i}] is {op!r}, which is no row op of paligemma_jax.pp."
      return
    for column in op.needs() if known else ():
      if column not in columns:
        yield (
          f"{what}: pp[{i}] {op!r} reads the column {column!r}, which neither the source nor an"
          f" earlier op makes.{errors.did_you_mean(column, columns)}"
        )
    columns += [c for c in op.makes() if c not in columns]
    if isinstance(op, protocols.CanSetSize) and "image" in op.makes():
      size = op.size or size
  for column, reader in wanted.items() if known else ():
    if column not in columns:
      yield (
        f"{what}: {reader} reads the column {column!r}, which neither the source nor an op"
        f" makes.{errors.did_you_mean(column, columns)}"
      )
  if isinstance(size, int) and size not in (0, res):
    yield f"{what}: its ops make images of {size} pixels, but model.res is {res}."
