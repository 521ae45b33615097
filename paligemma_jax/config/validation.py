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
  keys = schema.flat()
  for section, names in schema.sections().items():
    values = config.get(section) if section else config
    if not isinstance(values, ml_collections.ConfigDict):
      yield f"{section!r} is {values!r}; it must be a section. Set its keys, not the section."
      continue
    yield from (schema.unknown_key(key, section) for key in values if key not in names)
    paths = {name: f"{section}.{name}" if section else name for name in names}
    if missing := [path for name, path in paths.items() if name not in values]:
      yield f"{', '.join(missing)} missing. Change a section with .update(…); do not replace it."
    for name, path in paths.items():
      if name in values and path in keys:
        yield from _problems(path, keys[path], values[name])


def _problems(path: str, key: schema.Key, value: Any) -> Iterator[str]:
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
    if -1 < model[key] < 0:
      yield f"model.{key}={model[key]!r}: write 0 for none, -1 for the variant's own, or a cap > 0."
  if config.lora.rank and not config.lora.targets:
    yield "lora.rank is set but lora.targets is empty: name the matrices that get an adapter."
  if config.lora.rank and not config.lora.alpha:
    yield "lora.alpha is 0: the adapters would add nothing."
  for name in ("rslora", "dora", "dropout"):
    if config.lora[name] and not config.lora.rank:
      yield f"lora.{name} is set but lora.rank is 0: there are no adapters."
  if train.batch_size % (steps := train.grad_accum_steps):
    yield f"train.grad_accum_steps={steps} does not divide train.batch_size={train.batch_size}."
  if train.buckets and train.buckets[-1] > train.text_len:
    yield f"train.buckets={train.buckets} go beyond train.text_len={train.text_len}."
  for name in ("b1", "b2", "momentum", "ema"):
    if optim[name] == 1:
      yield f"optim.{name} must be less than 1, or the mean never changes."
  if optim.schedule != "linear" and optim.schedule_end:
    yield f"optim.schedule_end={optim.schedule_end} is for optim.schedule='linear' only."
  if train.loss is not None and optim.label_smoothing:
    yield (
      f"optim.label_smoothing={optim.label_smoothing} is of the loss that train.loss replaces; set"
      " it to 0 and smooth in train.loss."
    )
  if optim.custom is not None:  # The next options are free for it.
    if optim.name != schema.flat()["optim.name"].default:
      yield f"optim.custom takes the place of optim.name={optim.name!r}; leave one of them out."
    return
  if optim.name != "sgd" and optim.momentum:
    yield f"optim.momentum={optim.momentum} is for optim.name='sgd'; {optim.name} has optim.b1."
  if optim.name != "sgd" and not optim.eps:
    yield f"optim.eps must be above 0: {optim.name} divides by it where a gradient is 0."
  if optim.name != "adafactor" and optim.rms_clip:
    yield f"optim.rms_clip={optim.rms_clip} is for optim.name='adafactor' only."


def _training(config: ml_collections.ConfigDict) -> Iterator[str]:
  train = config.train
  if train.source is None:
    yield "train.source is not set: give it the training rows, as in sources.Jsonl('train.jsonl')."
  number, unit = schema.parse_duration(train.total, "train.total")
  if number == 0:
    yield "train.total is not set: say how long to train, as in '15 epochs' or '2000 steps'."
  elif unit == "%":
    yield f"train.total={train.total!r} is a share of itself; write epochs, steps or examples."
  if not config.optim.lr:
    yield "optim.lr is 0: nothing would be learned."
  for path in schema.code():
    section, _, name = path.rpartition(".")
    if isinstance(config[section][name], str):  # `load` imports what may be imported.
      yield f"{path}={config[section][name]!r} {specs.CODE_REFUSED}"
  drawing = [op for op in train.pp if isinstance(op, protocols.CanDrawImage) and op.draws_image]
  if train.cache_image_features and drawing:
    yield (
      f"train.cache_image_features={train.cache_image_features!r}: {type(drawing[0]).__name__}"
      " makes another image of a row every epoch, so nothing could be reused. Leave one out."
    )
  if train.source is not None:
    wanted = dict.fromkeys(_EVAL_COLUMNS["train"], "training")
    yield from _flow("train", config.model.res, train.source, train.pp, wanted)
  yield from _best(config)


def _best(config: ml_collections.ConfigDict) -> Iterator[str]:
  best = config.ckpt.best
  known = [e for e in config.evals if isinstance(e, protocols.Evaluator)]
  known = [e for e in known if isinstance(e.name, str)]  # `evaluators` reports others.
  found = [e for e in known if best.startswith(f"{e.name}/") and best != f"{e.name}/"]
  if best and not found:
    hint = errors.did_you_mean(best.rpartition("/")[0], [e.name for e in known])
    hint = hint if config.evals else " evals is empty."
    yield f"ckpt.best={best!r} is no metric '<evaluator>/<metric>' of evals.{hint}"
  elif best:
    name = found[0].name
    number, _ = schema.parse_duration(found[0].every, f"evaluator {name!r}: every")
    if number == 0:
      yield f"ckpt.best={best!r}: evaluator {name!r} never runs during training; set its every."


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
    yield from (f"{what}: {problem}" for problem in sampling_options.problems(evaluator))
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
  """Problems of columns, from the source through the ops to the readers, the values of `wanted`."""
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
  expected, is_legal = _FORMS[form]
  if not is_legal(value, path):
    raise errors.ConfigError(f"{path} must be {expected}, not {value!r}.")


def _form_problems(form: str, path: str, value: Any) -> list[str]:
  try:
    check(form, path, value)
  except errors.ConfigError as e:
    return [str(e)]
  return []


def _each(value: Any, is_legal: Callable[[Any], bool]) -> bool:
  return isinstance(value, tuple) and all(map(is_legal, value))


def _is_pair(value: Any) -> bool:
  return isinstance(value, tuple) and len(value) == 2


def _are_axes(value: Any, path: str) -> bool:
  if not _each(value, _is_pair):
    return False
  for name, _ in value:
    errors.pick(dict.fromkeys(AXES), name, f"axis of {path}")
  sizes = [size for _, size in value]
  legal = all(type(size) is int and (size > 0 or size == -1) for size in sizes)
  return legal and sizes.count(-1) <= 1 and len(dict(value)) == len(value)


def _are_lengths(value: Any, _: str) -> bool:
  return _each(value, lambda v: type(v) is int and v >= 2) and list(value) == sorted(set(value))


def _are_regexes(value: Any, path: str) -> bool:
  return _each(value, lambda v: bool(trees.compile_regex(v, path)))


def _are_rules(value: Any, path: str) -> bool:
  def is_rule(v: Any) -> bool:
    is_number = _is_pair(v) and isinstance(v[1], (int, float)) and not isinstance(v[1], bool)
    return is_number and 0 <= v[1] < math.inf

  return _each(value, is_rule) and _are_regexes(tuple(pattern for pattern, _ in value), path)


def _are_specs(value: Any, path: str) -> bool:
  for i, item in enumerate(value if isinstance(value, tuple) else ()):
    hint = "; it is a class, write it with brackets" if isinstance(item, type) else ""
    if not specs.is_spec(item):
      raise errors.ConfigError(f"{path}[{i}] must be a spec{hint}, not {item!r}.")
  return isinstance(value, tuple)


def _are_trackers(value: Any, path: str) -> bool:
  for i, item in enumerate(value if isinstance(value, tuple) else ()):
    if isinstance(item, str):
      errors.pick(dict.fromkeys(schema.TRACKERS), item, f"tracker of {path}")
    elif _are_specs((item,), path) and not isinstance(item, protocols.TrackerSpec):
      raise errors.ConfigError(
        f"{path}[{i}] is {item!r}, which is no tracker: it has no make(workdir)."
      )
  return isinstance(value, tuple)


def _is_code(value: Any, _: str) -> bool:
  if isinstance(value, str):
    module, _, name = value.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), name))
  is_called = specs.is_spec(value) and callable(value)
  return value is None or is_called or bool(specs.function_path(value))


def _is_duration(value: Any, path: str) -> bool:
  number, unit = schema.parse_duration(value, path)
  return unit != "%" or number <= 100


# {form: (what a value must be, whether it is)}; some raise a ConfigError that names the wrong part.
_FORMS: Mapping[str, tuple[str, Callable[[Any, str], bool]]] = {
    "axes": ("a tuple of pairs (axis, size), as in (('data', 2), ('fsdp', -1)), each axis once, no"
        " size 0, one size at most -1", _are_axes),
    "code": ("a function at the top level of a module (so that a saved configuration can name it),"
        " or its name 'my_package.module:function'", _is_code),
    "duration": ("at most '100%'", _is_duration),
    "free": ("a dict, as in {'llm': {'depth': 2}}",
        lambda value, _: isinstance(value, Mapping | ml_collections.ConfigDict)),
    "lengths": ("a tuple of rising text lengths, each at least 2, as in (32, 64)", _are_lengths),
    "regex": ("a tuple of regexes, as in ('img/.*',)", _are_regexes),
    "rules": ("a tuple of pairs (regex, number), as in (('img/.*', 0.1),), the number at least 0",
        _are_rules),
    "steps": ("steps, as in 'steps 10-13'",
        lambda value, path: bool(schema.parse_steps(value, path))),
    "spec": ("a spec, such as sources.Jsonl('train.jsonl')",
        lambda value, _: value is None or specs.is_spec(value)),
    "trackers": ("a tuple of names or specs; one needs a comma: ('wandb',)", _are_trackers),
    "specs": ("a tuple of specs; one spec needs a comma: (x,)", _are_specs),
}  # fmt: skip
