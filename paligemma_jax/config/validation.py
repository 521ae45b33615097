"""Checks configurations, without devices, data or JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.core import sampling_options
from paligemma_jax.core import spec as specs
from paligemma_jax.core import trees
from paligemma_jax.core import units
from paligemma_jax.regions import answer_forms


def validate(
  config: ml_collections.ConfigDict, *, training: bool = True, variants: Iterable[str] = ()
) -> None:
  """Passes, or raises one ConfigError that lists all problems.

  It checks keys and types, choices and ranges, durations, regex syntax, the options of ops and
  evaluators, image sizes, names, and that the source or an earlier op makes every column that an op
  or evaluator reads (unless the columns of the source are unknown).

  Args:
    training: also check what a training run needs: source, ops, total, learning rate.
    variants: the known models (`models.variants.VARIANTS`); () leaves the name unchecked.
  """
  found = list(_structure(config))
  if not found:  # The next checks rely on keys and types.
    found = [*_relations(config, tuple(variants)), *evaluators(config)]
    if training:
      found += _training(config)
  if len(found) == 1:
    raise errors.ConfigError(found[0])
  if found:
    listed = "".join(f"\n  - {problem}" for problem in found)
    raise errors.ConfigError(f"The configuration has {len(found)} problems:{listed}")


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def _structure(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Problems of keys, and of values by themselves."""
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
  """Problems of one value by itself."""
  if key.form:
    yield from _form_problems(key.form, path, value)
    return
  kind = type(key.default)
  number = int if kind is float and type(value) is int else kind
  if type(value) is not number:
    yield f"{path} must be {_KINDS[kind]}, but {value!r} is a {type(value).__name__}."
  elif key.choices and value not in key.choices:
    yield f"Unknown {path} {value!r}.{errors.did_you_mean(str(value), key.choices)}"
  elif kind in (int, float) and not math.isfinite(value):
    yield f"{path} must be a finite number, not {value!r}."
  elif key.low is not None and value < key.low:
    yield f"{path} must be at least {key.low}, not {value!r}."
  elif key.high is not None and value > key.high:
    yield f"{path} must be at most {key.high}, not {value!r}."


def _relations(config: ml_collections.ConfigDict, variants: tuple[str, ...]) -> Iterator[str]:
  """Problems of values together."""
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
    yield "lora.rank is set but lora.targets is empty: name the matrices that get an adapter."
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
      yield f"optim.{name} must be less than 1, or the mean never changes."
  if optim.custom is None:
    yield from _optimizer_options(optim)
  elif optim.name != schema.flat()["optim.name"].default:
    yield f"optim.custom takes the place of optim.name={optim.name!r}; leave one of them out."
  if optim.schedule != "linear" and optim.schedule_end:
    yield f"optim.schedule_end={optim.schedule_end} is for optim.schedule='linear' only."
  for i, tracker in enumerate(config.log.trackers):
    if not isinstance(tracker, protocols.TrackerSpec):
      yield f"log.trackers[{i}] is {tracker!r}, which is no tracker: it has no make(workdir)."
  if train.loss is not None and optim.label_smoothing:
    yield (
      f"optim.label_smoothing={optim.label_smoothing} is of the loss that train.loss replaces; set"
      " it to 0 and smooth in train.loss."
    )


def _optimizer_options(optim: ml_collections.ConfigDict) -> Iterator[str]:
  """Options that the optimizer of that name does not have."""
  if optim.name != "sgd" and optim.momentum:
    yield f"optim.momentum={optim.momentum} is for optim.name='sgd'; {optim.name} has optim.b1."
  if optim.name != "sgd" and not optim.eps:
    yield f"optim.eps must be above 0: {optim.name} divides by it where a gradient is 0."
  if optim.name != "adafactor" and optim.rms_clip:
    yield f"optim.rms_clip={optim.rms_clip} is for optim.name='adafactor' only."


def _training(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Problems of a training run."""
  train = config.train
  if train.source is None:
    yield "train.source is not set: give it the training rows, as in sources.Jsonl('train.jsonl')."
  if units.parse(train.total, "train.total")[0] == 0:
    yield "train.total is not set: say how long to train, as in '15 epochs' or '2000 steps'."
  elif units.parse(train.total, "train.total")[1] == "%":
    yield f"train.total={train.total!r} is a share of itself; write epochs, steps or examples."
  if not config.optim.lr:
    yield "optim.lr is 0: nothing would be learned."
  for path in schema.code():
    section, _, name = path.rpartition(".")
    if isinstance(config[section][name], str):  # `load` imports what may be imported.
      yield f"{path}={config[section][name]!r} {specs.CODE_REFUSED}"
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
    wanted = dict.fromkeys(_EVAL_COLUMNS["train"], "training")
    yield from _flow("train", config.model.res, train.source, train.pp, wanted)
  yield from _best(config)


def _best(config: ml_collections.ConfigDict) -> Iterator[str]:
  best = config.ckpt.best
  evaluators = [e for e in config.evals if isinstance(e, protocols.Evaluator)]
  evaluators = [e for e in evaluators if isinstance(e.name, str)]  # `evaluators` reports others.
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


_EVAL_COLUMNS = {"train": ("image", "prefix", "suffix"), "decode": ("image", "prefix")}
_LEAST = {"batch_size": 1, "max_len": 1, "text_len": 2, "limit": 0, "best_of": 1, "beam_size": 1}
_OVERFLOW = schema.flat()["train.overflow"].choices


def evaluators(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Problems of the evaluators: their names, options, and the columns that they read."""
  seen: set[str] = set()
  for i, evaluator in enumerate(config.evals):
    if not isinstance(evaluator, protocols.Evaluator) or evaluator.encoding not in _EVAL_COLUMNS:
      yield f"evals[{i}] is {evaluator!r}, which is no evaluator of paligemma_jax.evals."
      continue
    name = evaluator.name
    if not isinstance(name, str) or not name.strip("/"):
      yield f"evals[{i}]: its name must be a text such as 'val/acc', not {name!r}."
      continue
    if name in seen:
      yield f"Two evaluators are called {name!r}; each needs a name of its own, for its metrics."
    seen.add(name)
    what = f"evaluator {name!r}"
    yield from _form_problems("duration", f"{what}: every", evaluator.every)
    for field, low in _LEAST.items():
      value = getattr(evaluator, field)
      if type(value) is not int or value < low:
        yield f"{what}: {field} must be a whole number of at least {low}, not {value!r}."
    banned = evaluator.banned
    if not isinstance(banned, tuple) or not all(isinstance(text, str) for text in banned):
      yield f"{what}: banned must be a tuple of texts of tokens, not {banned!r}."
    if evaluator.overflow not in _OVERFLOW:
      legal = ", ".join(map(repr, _OVERFLOW))
      yield f"{what}: overflow must be one of {legal}, not {evaluator.overflow!r}."
    if not isinstance(evaluator.sampler, str):
      yield f"{what}: sampler must be a text such as 'greedy', not {evaluator.sampler!r}."
    for problem in sampling_options.problems(evaluator):
      yield f"{what}: {problem}"
    if not isinstance(evaluator.constraint, (type(None), *answer_forms.CONSTRAINTS.values())):
      legal = ", ".join(f"constraints.{name}" for name in answer_forms.CONSTRAINTS)
      yield f"{what}: constraint must be None or one of {legal}, not {evaluator.constraint!r}."
    if not specs.is_spec(evaluator.source):
      yield f"{what}: its source must be a spec of paligemma_jax.sources, not {evaluator.source!r}."
      continue
    if wrong := _form_problems("specs", f"{what}: pp", evaluator.pp):
      yield from wrong
      continue
    wanted = dict.fromkeys(_EVAL_COLUMNS[evaluator.encoding], f"the {evaluator.encoding} encoding")
    wanted |= {c: type(evaluator).__name__ for c in evaluator.columns() if c not in wanted}
    yield from _flow(what, config.model.res, evaluator.source, evaluator.pp, wanted)


def _flow(
  what: str, res: int, source: Any, ops: tuple[Any, ...], wanted: Mapping[str, str]
) -> Iterator[str]:
  """Problems of columns, followed from the source through the ops to their readers.

  Args:
    wanted: {column: what reads it at the end}.
  """
  if not isinstance(source, protocols.Source):
    yield f"{what}: its source {source!r} is no source of paligemma_jax.sources."
    return
  if isinstance(source, protocols.CanHaveParts):
    for j, part in enumerate(source.parts):
      yield from _flow(f"{what}: parts[{j}]", res, part.source, (*part.pp, *ops), wanted)
    return
  columns = list(source.makes())
  known = bool(columns)  # () where they are known only from the data.
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


# Axes of the mesh. Examples are sharded over "data" and "fsdp", parameters over "fsdp", and heads,
# hidden units and the vocabulary over "tensor".
AXES = ("data", "fsdp", "tensor")


def check(form: str, path: str, value: Any) -> None:
  """Raises a ConfigError that names `path` when a value is not of a `schema.Key.form`."""
  _FORMS[form](path, value)


def _form_problems(form: str, path: str, value: Any) -> list[str]:
  try:
    check(form, path, value)
  except errors.ConfigError as e:
    return [str(e)]
  return []


def _check(legal: bool, path: str, value: Any, expected: str) -> None:
  if not legal:
    raise errors.ConfigError(f"{path} must be {expected}, not {value!r}.")


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_duration(path: str, value: Any) -> None:
  number, unit = units.parse(value, path)
  _check(unit != "%" or number <= 100, path, value, "at most '100%'")


def _check_regexes(path: str, value: Any) -> None:
  _check(isinstance(value, tuple), path, value, "a tuple of regexes, as in ('img/.*',)")
  for pattern in value:
    trees.compile_regex(pattern, path)


def _check_rules(path: str, value: Any) -> None:
  expected = "a tuple of pairs (regex, number), as in (('img/.*', 0.1),)"
  _check(isinstance(value, tuple), path, value, expected)
  for pair in value:
    _check(isinstance(pair, tuple) and len(pair) == 2, path, value, expected)
    _check(_is_number(pair[1]) and pair[1] >= 0, path, value, f"{expected}, the number at least 0")
    trees.compile_regex(pair[0], path)


def _check_axes(path: str, value: Any) -> None:
  expected = "a tuple of pairs (axis, size), as in (('data', 2), ('fsdp', -1))"
  _check(isinstance(value, tuple), path, value, expected)
  for pair in value:
    _check(isinstance(pair, tuple) and len(pair) == 2, path, value, expected)
    name, size = pair
    if name not in AXES:
      raise errors.ConfigError(f"{path}: unknown axis {name!r}.{errors.did_you_mean(name, AXES)}")
    _check(type(size) is int and (size > 0 or size == -1), path, value, f"{expected}, no size 0")
  names = [name for name, _ in value]
  _check(len(set(names)) == len(names), path, value, f"{expected}, each axis once")
  open_sizes = [size for _, size in value if size == -1]
  _check(len(open_sizes) <= 1, path, value, f"{expected}, one size at most -1")


def _check_lengths(path: str, value: Any) -> None:
  expected = "a tuple of rising text lengths, as in (32, 64)"
  _check(isinstance(value, tuple), path, value, expected)
  _check(all(type(v) is int and v >= 2 for v in value), path, value, f"{expected}, each at least 2")
  _check(list(value) == sorted(set(value)), path, value, expected)


def _check_spec(path: str, value: Any) -> None:
  expected = "a spec, such as sources.Jsonl('train.jsonl')"
  _check(value is None or specs.is_spec(value), path, value, expected)


def _check_specs(path: str, value: Any) -> None:
  _check(isinstance(value, tuple), path, value, "a tuple of specs; one spec needs a comma: (x,)")
  for i, item in enumerate(value):
    hint = "; it is a class, write it with brackets" if isinstance(item, type) else ""
    _check(specs.is_spec(item), f"{path}[{i}]", item, f"a spec{hint}")


def _check_code(path: str, value: Any) -> None:
  if value is None or specs.function_path(value) or (specs.is_spec(value) and callable(value)):
    return
  if isinstance(value, str):
    module, _, name = value.partition(":")
    named = all(part.isidentifier() for part in (*module.split("."), name))
    _check(named, path, value, "a text 'my_package.module:function'")
    return
  hint = " at the top level of a module, so that a saved configuration can name it"
  _check(False, path, value, f"a function{hint if callable(value) else ''}, or 'module:function'")


def _check_free(path: str, value: Any) -> None:
  _check(
    isinstance(value, Mapping | ml_collections.ConfigDict),
    path,
    value,
    "a dict, as in {'llm': {'depth': 2}}",
  )


_FORMS: Mapping[str, Callable[[str, Any], None]] = {
  "axes": _check_axes,
  "code": _check_code,
  "duration": _check_duration,
  "free": _check_free,
  "lengths": _check_lengths,
  "regex": _check_regexes,
  "rules": _check_rules,
  "spec": _check_spec,
  "specs": _check_specs,
}
