"""Text from a command line, turned into values of the type that the place holds."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import ml_collections

from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs

_TRUE = ("true", "1", "yes", "on")
_NOTHING = ("()", "[]", "none", "")  # A tuple of specs can be emptied.
_FALSE = ("false", "0", "no", "off")


def parse(text: str, kind: type, what: str) -> Any:
  """`text` as a bool, int, float, str, tuple or dict.

  Args:
    what: the argument or dotted key, named in the error.

  Raises:
    ConfigError: the text does not read as that type.
  """
  if kind is str:
    return text
  if kind is bool:
    if text.lower() not in _TRUE + _FALSE:
      raise errors.ConfigError(f"{what}: {text!r} is not true or false.")
    return text.lower() in _TRUE
  if kind in (int, float):
    try:
      value = kind(text)
    except ValueError:
      article = "a whole number" if kind is int else "a number"
      raise errors.ConfigError(f"{what}: {text!r} is not {article}.") from None
    if not math.isfinite(value):
      raise errors.ConfigError(f"{what}: {text!r} is not a finite number.")
    return value
  return _literal(text, kind, what)


def _literal(text: str, kind: type, what: str) -> Any:
  example = "('a', 'b')" if kind is tuple else "{'a': 1}"
  try:
    value = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    hint = f'("{text}",)' if kind is tuple else example
    raise errors.ConfigError(
      f"{what}: {text!r} is not a Python {kind.__name__}; write it as {hint}, in shell quotes."
    ) from None
  if kind is tuple and isinstance(value, (list, tuple)):
    return specs.from_json(list(value))
  if kind is dict and isinstance(value, dict):
    return value
  raise errors.ConfigError(f"{what}: {text!r} is not a {kind.__name__}; write it as {example}.")


def parameters(fn: Callable[..., Any]) -> dict[str, type]:
  """{'res': int, ...}: the arguments of a get_config function and their types.

  Raises:
    ConfigError: an argument has no default, or its type cannot be written after a colon.
  """
  where = f"{fn.__code__.co_filename}:{fn.__code__.co_firstlineno}"
  try:
    signature = inspect.signature(fn, eval_str=True)
  except NameError as e:
    raise errors.ConfigError(f"{where}: {fn.__name__}: {e}.") from e
  kinds = {}
  for name, parameter in signature.parameters.items():
    if parameter.default is inspect.Parameter.empty:
      raise errors.ConfigError(f"{where}: argument {name!r} of {fn.__name__} needs a default.")
    annotated = parameter.annotation is not inspect.Parameter.empty
    kind = parameter.annotation if annotated else type(parameter.default)
    if kind not in (bool, int, float, str):
      raise errors.ConfigError(
        f"{where}: argument {name!r} of {fn.__name__} must be a bool, int, float or str,"
        f" not {kind!r}."
      )
    kinds[name] = kind
  return kinds


def arguments(text: str, kinds: Mapping[str, type], what: str) -> dict[str, Any]:
  """'res=448,final' -> {'res': 448, 'final': True}.

  Args:
    text: what stands after the colon; '' for nothing.
    kinds: the arguments that exist, from `parameters`.
    what: the config file, named in errors.
  """
  values: dict[str, Any] = {}
  for part in filter(None, (p.strip() for p in text.split(","))):
    name, equals, value = (p.strip() for p in part.partition("="))
    if name not in kinds:
      known = errors.did_you_mean(name, kinds) if kinds else " It takes none."
      raise errors.ConfigError(f"{what} has no argument {name!r}.{known}")
    if name in values:
      raise errors.ConfigError(f"{what}: argument {name!r} is given twice.")
    if not equals and kinds[name] is not bool:
      raise errors.ConfigError(f"{what}: argument {name!r} needs a value, as in '{name}=…'.")
    values[name] = parse(value, kinds[name], f"{what}: {name}") if equals else True
  return values


def override(config: ml_collections.ConfigDict, path: str, text: str) -> None:
  """Sets `config.<path>` to `text`, read as the type of the present value.

  The path may go on into specs and tuples: 'train.source.path', 'evals.0.limit'.

  Raises:
    ConfigError: no such key or field, or a text that does not read as its type.
  """
  first, _, rest = path.partition(".")
  names = schema.sections()
  if first in names and first:
    child, _, deeper = rest.partition(".")
    if not child:
      shown = ", ".join(f"{first}.{name}" for name in names[first])
      raise errors.ConfigError(f"{path!r} is a section, not a key; its keys are {shown}.")
    if child not in names[first]:
      raise errors.ConfigError(schema.unknown_key(child, first))
    config[first][child] = _changed(config[first][child], deeper, text, f"{first}.{child}")
  elif first in names[""]:
    config[first] = _changed(config[first], rest, text, first)
  else:
    raise errors.ConfigError(schema.unknown_key(first))


def _changed(value: Any, path: str, text: str, what: str) -> Any:
  """`value` with the part at `path` replaced by the parsed text."""
  first, _, rest = path.partition(".")
  if not first:
    if text.strip().lower() in _NOTHING and (_holds_specs(value) or what == "evals"):
      return ()
    if value is None or specs.is_spec(value) or _holds_specs(value):
      raise errors.ConfigError(
        f"{what} holds specs; they are written in the config file, one field of them can be set"
        " as in 'train.source.path=…' or 'evals.0.limit=…'; 'evals=none' takes all of them out."
      )
    kind = dict if isinstance(value, Mapping | ml_collections.ConfigDict) else type(value)
    return parse(text, kind, what)
  deeper = f"{what}.{first}"
  if isinstance(value, tuple):
    if not first.isdigit() or int(first) >= len(value):
      raise errors.ConfigError(f"{deeper}: {what} has {len(value)} elements, counted from 0.")
    i = int(first)
    return (*value[:i], _changed(value[i], rest, text, deeper), *value[i + 1 :])
  if specs.is_spec(value):
    fields = [field.name for field in dataclasses.fields(value)]
    if first not in fields:
      raise errors.ConfigError(
        f"{what} has no field {first!r}.{errors.did_you_mean(first, fields)}"
      )
    return value.replace(**{first: _changed(getattr(value, first), rest, text, deeper)})
  if isinstance(value, Mapping | ml_collections.ConfigDict):
    free = value.to_dict() if isinstance(value, ml_collections.ConfigDict) else dict(value)
    if rest or first in free:
      return {**free, first: _changed(free.get(first, {}), rest, text, deeper)}
    return {**free, first: _guess(text)}
  raise errors.ConfigError(f"{what} is {value!r}; it has no parts.")


def _holds_specs(value: Any) -> bool:
  return isinstance(value, tuple) and any(specs.is_spec(v) for v in value)


def _guess(text: str) -> Any:
  """The plain value that the text reads as, else the text: for keys that have no present value."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
