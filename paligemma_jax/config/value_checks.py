"""The forms of values that a type alone does not say: durations, regexes, rules, axes, specs."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import ml_collections

from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.core import trees
from paligemma_jax.core import units

# Of the mesh. Rows go over "data" and "fsdp". Parameters are sharded over "fsdp", and heads, hidden
# units and the vocabulary over "tensor".
AXES = ("data", "fsdp", "tensor")


def check(form: str, path: str, value: Any) -> None:
  """Passes when `value` has the form (see `schema.Key.form`).

  Args:
    path: the dotted key, named in the error.

  Raises:
    ConfigError: what is wrong, what is expected.
  """
  _FORMS[form](path, value)


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


def _check_free(path: str, value: Any) -> None:
  _check(
    isinstance(value, Mapping | ml_collections.ConfigDict),
    path,
    value,
    "a dict, as in {'llm': {'depth': 2}}",
  )


_FORMS: Mapping[str, Callable[[str, Any], None]] = {
  "axes": _check_axes,
  "duration": _check_duration,
  "free": _check_free,
  "lengths": _check_lengths,
  "regex": _check_regexes,
  "rules": _check_rules,
  "spec": _check_spec,
  "specs": _check_specs,
}
