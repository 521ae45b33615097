"""Checks everything about a configuration that needs neither a device, nor data, nor JAX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import ml_collections

from paligemma_jax.config import column_flow
from paligemma_jax.config import schema
from paligemma_jax.config import value_checks
from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.core import units


def validate(
  config: ml_collections.ConfigDict, *, training: bool = True, variants: Iterable[str] = ()
) -> None:
  """Passes, or raises one ConfigError that lists all that is wrong.

  Checked: keys and types, choices and ranges, durations, regex syntax, that ops and evaluators
  are specs with legal options, that every column which an op or evaluator reads is produced by the
  source or an earlier op (a source whose columns are unknown is trusted), image sizes, names.

  Args:
    training: also ask for what a training run needs: source, ops, total, learning rate.
    variants: the models there are (`models.variants.VARIANTS`); () leaves the name unchecked.
  """
  found = list(_structure(config))
  if not found:  # What follows reads the keys, so they have to be there and of their types.
    found = [*_relations(config, tuple(variants)), *column_flow.evaluators(config)]
    if training:
      found += _training(config)
  if len(found) == 1:
    raise errors.ConfigError(found[0])
  if found:
    listed = "".join(f"\n  - {problem}" for problem in found)
    raise errors.ConfigError(f"The configuration has {len(found)} problems:{listed}")


def _structure(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Every key of the schema is there, nothing else is, each value is legal by itself."""
  for section, names in schema.sections().items():
    values = config.get(section) if section else config
    if not isinstance(values, ml_collections.ConfigDict):
      yield f"{section!r} is {values!r}; it must be a section. Set its keys, not the section."
      continue
    yield from (schema.unknown_key(key, section) for key in values if key not in names)
    missing = [f"{section}.{name}" if section else name for name in names if name not in values]
    if missing:
      yield f"{', '.join(missing)} missing. Change a section with .update(…); do not replace it."
      continue
  for path, key in schema.flat().items():
    section, _, name = path.rpartition(".")
    values = config.get(section) if section else config
    if isinstance(values, ml_collections.ConfigDict) and name in values:
      yield from _problems(path, key, values[name])


def _problems(path: str, key: schema.Key, value: Any) -> Iterator[str]:
  """What is wrong with one value by itself."""
  if key.form:
    try:
      value_checks.check(key.form, path, value)
    except errors.ConfigError as e:
      yield str(e)
    return
  kind = type(key.default)
  number = int if kind is float and type(value) is int else kind
  if type(value) is not number:
    yield f"{path} must be {_article(kind)}, but {value!r} is a {type(value).__name__}."
  elif key.choices and value not in key.choices:
    yield f"Unknown {path} {value!r}.{errors.did_you_mean(value, key.choices)}"
  elif kind in (int, float) and not math.isfinite(value):
    yield f"{path} must be a finite number, not {value!r}."
  elif key.low is not None and value < key.low:
    yield f"{path} must be at least {key.low}, not {value!r}."
  elif key.high is not None and value > key.high:
    yield f"{path} must be at most {key.high}, not {value!r}."


def _article(kind: type) -> str:
  return {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}[kind]


def _relations(config: ml_collections.ConfigDict, variants: tuple[str, ...]) -> Iterator[str]:
  """Keys that are legal by themselves but not together."""
  model, train, optim = config.model, config.train, config.optim
  if variants and model.variant not in variants:
    yield f"Unknown model.variant {model.variant!r}.{errors.did_you_mean(model.variant, variants)}"
  for key in ("final_logits_softcap", "attn_logits_softcap"):
    if model[key] < 0 and model[key] != -1:
      yield (
        f"model.{key}={model[key]!r}: write 0 for none, -1 for the variant's own, or a positive"
        " cap."
      )
  if config.lora.rank and not config.lora.targets:
    yield "lora.rank is set but lora.targets is empty: say which matrices get an adapter."
  if config.lora.rank and not config.lora.alpha:
    yield "lora.alpha is 0: the adapters would add nothing."
  if not config.lora.rank:
    yield from (
      f"lora.{name} is set but lora.rank is 0: there are no adapters."
      for name in ("rslora", "dora", "dropout")
      if config.lora[name]
    )
  if train.batch_size % train.grad_accum_steps:
    yield (
      f"train.grad_accum_steps={train.grad_accum_steps} does not divide"
      f" train.batch_size={train.batch_size}."
    )
  if train.buckets and train.buckets[-1] > train.text_len:
    yield f"train.buckets={train.buckets} go beyond train.text_len={train.text_len}."
  for name in ("b1", "b2", "momentum", "ema"):
    if optim[name] == 1:
      yield f"optim.{name} must be less than 1, or nothing is ever forgotten."
  if optim.name != "sgd" and optim.momentum:
    yield f"optim.momentum={optim.momentum} is for optim.name='sgd'; {optim.name} has optim.b1."
  if optim.name != "sgd" and not optim.eps:
    yield f"optim.eps must be above 0: {optim.name} divides by it where a gradient is 0."
  if optim.name != "adafactor" and optim.rms_clip:
    yield f"optim.rms_clip={optim.rms_clip} is for optim.name='adafactor' only."
  if optim.schedule != "linear" and optim.schedule_end:
    yield f"optim.schedule_end={optim.schedule_end} is for optim.schedule='linear' only."


def _training(config: ml_collections.ConfigDict) -> Iterator[str]:
  """What a training run cannot do without."""
  train = config.train
  if train.source is None:
    yield "train.source is not set: give it the training rows, as in sources.Jsonl('train.jsonl')."
  if units.parse(train.total, "train.total")[0] == 0:
    yield "train.total is not set: say how long to train, as in '15 epochs' or '2000 steps'."
  elif units.parse(train.total, "train.total")[1] == "%":
    yield f"train.total={train.total!r} is a share of itself; write epochs, steps or examples."
  if not config.optim.lr:
    yield "optim.lr is 0: nothing would be learned."
  drawing = [
    type(op).__name__
    for op in train.pp
    if isinstance(op, protocols.CanDrawImage) and op.draws_image
  ]
  if train.cache_image_features and drawing:
    yield (
      f"train.cache_image_features={train.cache_image_features!r}: {drawing[0]} makes"
      " another image of a row every epoch, so nothing could be reused. Leave one of them out."
    )
  if train.source is not None:
    yield from column_flow.training(config)
  yield from _best(config)


def _best(config: ml_collections.ConfigDict) -> Iterator[str]:
  best = config.ckpt.best
  evaluators = [e for e in config.evals if isinstance(e, protocols.Evaluator)]
  evaluators = [e for e in evaluators if isinstance(e.name, str)]  # Others are told of elsewhere.
  names = [e.name for e in evaluators]
  if best and not any(best.startswith(f"{name}/") and best != f"{name}/" for name in names):
    known = (
      errors.did_you_mean(best.rpartition("/")[0], names) if config.evals else " evals is empty."
    )
    yield f"ckpt.best={best!r} is no metric '<evaluator>/<metric>' of evals.{known}"
  elif best:
    of = next(e for e in evaluators if best.startswith(f"{e.name}/"))
    if units.parse(of.every, f"evaluator {of.name!r}: every")[0] == 0:
      yield f"ckpt.best={best!r}: evaluator {of.name!r} never runs during training; set its every."
