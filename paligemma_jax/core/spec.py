"""Specs: frozen, printable, picklable records of plain values and other specs.

Sources, row ops and evaluators are specs. A spec can be written to JSON and read back, so a run's
configuration is a file; reading one constructs only classes that were declared with `@spec`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from typing import Any
from typing import TypeVar
from typing import dataclass_transform

from paligemma_jax.core import errors

T = TypeVar("T", bound=type)

_PLAIN = (str, int, float, bool, type(None))
_KIND = "__spec__"


@dataclass_transform(frozen_default=True)
def spec(cls: T) -> T:
  """Class decorator: a frozen dataclass whose misspelt fields are errors with the near match.

  Adds `.replace(**changes)`. Fields hold plain values, tuples, string-keyed dicts and specs;
  lists are turned into tuples.

  Raises (when an instance is made): ConfigError on an unknown, missing or non-plain field.
  """
  cls = dataclasses.dataclass(frozen=True)(cls)
  names = [f.name for f in dataclasses.fields(cls)]
  plain_init = cls.__init__
  what = f"{cls.__module__.removeprefix('paligemma_jax.')}.{cls.__name__}"

  @functools.wraps(plain_init)
  def __init__(self, *args, **kwargs):
    for key in kwargs:
      if key not in names:
        raise errors.ConfigError(f"{what} has no field {key!r}.{errors.did_you_mean(key, names)}")
    try:
      plain_init(self, *args, **kwargs)
    except TypeError as e:
      reason = str(e).replace(f"{cls.__name__}.__init__()", what)
      raise errors.ConfigError(f"{reason}. Fields: {', '.join(names)}.") from None
    for name in names:
      object.__setattr__(self, name, _freeze(getattr(self, name), f"{what}.{name}"))

  def replace(self, **changes):
    """A copy with these fields changed."""
    values = {name: getattr(self, name) for name in names}
    return type(self)(**{**values, **changes})

  cls.__init__ = __init__
  cls.replace = replace
  cls.__is_spec__ = cls
  return cls


def is_spec(value: Any) -> bool:
  """True for instances of classes declared with `@spec`."""
  return getattr(type(value), "__is_spec__", None) is type(value)


def to_json(value: Any) -> Any:
  """Plain JSON data for a spec, or for a nest of tuples, lists, dicts and plain values."""
  if is_spec(value):
    fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return {_KIND: f"{type(value).__module__}:{type(value).__qualname__}", **fields}
  if isinstance(value, Mapping):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [to_json(v) for v in value]
  if isinstance(value, _PLAIN):
    return value
  raise errors.ConfigError(f"{value!r} is a {type(value).__name__}; configs hold plain values.")


def from_json(value: Any) -> Any:
  """The inverse of `to_json`; lists come back as tuples.

  Raises:
    ConfigError: the data names something that is not a class declared with `@spec`.
  """
  if isinstance(value, Mapping):
    fields = {k: from_json(v) for k, v in value.items() if k != _KIND}
    return resolve(value[_KIND])(**fields) if _KIND in value else fields
  if isinstance(value, (tuple, list)):
    return tuple(from_json(v) for v in value)
  return value


def resolve(path: str) -> type:
  """The spec class named `my_package.module:Thing`; ConfigError when there is none."""
  module_name, _, name = str(path).partition(":")
  try:
    cls = getattr(importlib.import_module(module_name), name)
  except (ImportError, AttributeError, ValueError) as e:
    raise errors.ConfigError(f"Cannot find {path!r} (expected 'module:Class'): {e}.") from None
  if getattr(cls, "__is_spec__", None) is not cls:
    raise errors.ConfigError(f"{path!r} is not a spec: declare the class with @spec.")
  return cls


def _freeze(value: Any, where: str) -> Any:
  if isinstance(value, _PLAIN) or is_spec(value):
    return value
  if isinstance(value, (tuple, list)):
    return tuple(_freeze(v, where) for v in value)
  if isinstance(value, Mapping):
    return {str(k): _freeze(v, where) for k, v in value.items()}
  raise errors.ConfigError(
      f"{where} is a {type(value).__name__}; it must be a plain value, a tuple, a dict or a spec."
  )
