"""Specs: frozen, printable, picklable records of plain values and other specs.

Sources, row ops and evaluators are specs. They are saved as JSON; reading it constructs only
classes declared with `@spec`, and imports code other than ours only with the reader's consent.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, TypeVar, dataclass_transform

from paligemma_jax.core import errors

T = TypeVar("T", bound=type)

CODE_REFUSED = (
  "is code outside of paligemma_jax, and a saved configuration does not make code run. Give"
  " --config with the config file that it was made by; or, if you trust that module, --allow_code"
  " (allow_code=True in Python)."
)
_PLAIN = (str, int, float, bool, type(None))
_KIND = "__spec__"
# Fields of ours that older versions saved under another name.
_RENAMED = {"truth": "target"}
_OURS = tuple(
  f"paligemma_jax.{room}." for room in ("regions", "sources", "pp", "evals", "trackers")
)
# Modules that together have all specs of ours by name.
_SPECS = ("sources", "pp", "evals", "trackers", "regions.answer_forms", "regions.mask_codec")
# The annotations that are checked in our own specs, and how messages name them.
_TYPES = {
  "str": ((str,), "a text"),
  "int": ((int,), "a whole number"),
  "float": ((int, float), "a number"),
  "bool": ((bool,), "True or False"),
  "tuple": ((tuple,), "a tuple"),
  "dict": ((dict,), "a dict"),
  "None": ((type(None),), "None"),
}


@dataclass_transform(frozen_default=True)
def spec(cls: T) -> T:
  """Class decorator: a frozen dataclass with `.replace(**changes)`, for values of plain data.

  Fields hold plain values, tuples, string-keyed dicts and specs; lists become tuples. An instance
  with an unknown, missing or non-plain field is a ConfigError, and so is one of our own specs with
  a field of another type.
  """
  made: Any = cls  # It gets members here.
  what = f"{cls.__module__.removeprefix('paligemma_jax.')}.{cls.__name__}"
  own_check = getattr(cls, "__post_init__", None)

  def __post_init__(self):
    settle(self)  # Before the class's own check, which relies on the types.
    if own_check:
      own_check(self)
      settle(self)

  def settle(self):
    for name in names:
      value = _freeze(getattr(self, name), f"{what}.{name}")
      if name in types:
        _check_type(value, types[name], f"{what}.{name}")
      object.__setattr__(self, name, value)

  made.__post_init__ = __post_init__
  dataclasses.dataclass(frozen=True)(made)
  names = [f.name for f in dataclasses.fields(made)]
  types = _field_types(cls) if cls.__module__.startswith(_OURS) else {}
  plain_init = made.__init__

  @functools.wraps(plain_init)
  def __init__(self, /, *args, **kwargs):  # A field called self may stand in a file.
    for key in kwargs:
      if key not in names:
        raise errors.ConfigError(f"{what} has no field {key!r}.{errors.did_you_mean(key, names)}")
    try:
      plain_init(self, *args, **kwargs)
    except TypeError as e:
      reason = str(e).replace(f"{cls.__name__}.__init__()", what)
      raise errors.ConfigError(f"{reason}. Fields: {', '.join(names)}.") from None

  made.__init__ = __init__
  made.replace = dataclasses.replace
  made.__is_spec__ = cls
  return cls


def is_spec(value: Any) -> bool:
  """True for instances of classes declared with `@spec`."""
  return _is_spec_class(type(value))


def _is_spec_class(cls: Any) -> TypeGuard[type]:
  return isinstance(cls, type) and vars(cls).get("__is_spec__") is cls


def to_json(value: Any) -> Any:
  """Plain JSON data for a spec, or for nested tuples, lists, dicts and plain values."""
  if is_spec(value):
    fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return {_KIND: f"{type(value).__module__}:{type(value).__qualname__}", **fields}
  if isinstance(value, Mapping):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [to_json(v) for v in value]
  if isinstance(value, _PLAIN):
    return value
  if path := function_path(value):
    return path
  raise errors.ConfigError(f"{value!r} is a {type(value).__name__}; configs hold plain values.")


def completed(data: Mapping[str, Any]) -> dict[str, Any]:
  """The data of a spec, as of `to_json`, in a form that versions can be compared in.

  One of ours gets the fields that it lacks, with their defaults, and the place where its class is
  now; the name of a user's class loses its module, which depends on the path of the file.
  """
  path = str(data.get(_KIND, ""))
  if not path.startswith("paligemma_jax."):
    return {**data, _KIND: path.rpartition(":")[2]} if path else dict(data)
  try:
    cls = resolve(path)
  except errors.ConfigError:  # Of another version.
    return dict(data)
  new = [f for f in dataclasses.fields(cls) if f.name not in data]
  new = [f for f in new if f.default is not dataclasses.MISSING]
  lacking = {f.name: to_json(f.default) for f in new}
  return {**data, **lacking, _KIND: f"{cls.__module__}:{cls.__qualname__}"}


def function_path(value: Any) -> str:
  """'my_package.module:name' of a function that an import finds again under that name; else ''."""
  module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
  if not callable(value) or isinstance(value, type) or not isinstance(module, str):
    return ""
  found = getattr(sys.modules.get(module), str(name), None)
  return f"{module}:{name}" if found is value else ""


def function(path: str, key: str) -> Callable[..., Any]:
  """The function that the text 'my_package.module:name' names; its module is imported.

  The caller may make code run; a text out of a saved configuration needs consent. A ConfigError
  names the `key` where the text stands if there is no such function.
  """
  module_name, _, name = path.partition(":")
  failed = f"{key}: cannot import the module of {path!r}"
  remedy = "It must lie beside the config file, or be installed."
  module = sys.modules.get(module_name) or _imported(module_name, failed, remedy)
  found = vars(module).get(name)
  if found is None:
    raise errors.ConfigError(
      f"{key}: {module_name} has no function {name!r}.{errors.did_you_mean(name, vars(module))}"
    )
  if not function_path(found) and not (is_spec(found) and callable(found)):
    raise errors.ConfigError(
      f"{key}: {path!r} is a {type(found).__name__}; it must be a function of that module."
    )
  return found


def from_json(value: Any, *, allow_code: bool = False, keep_unknown: bool = False) -> Any:
  """The inverse of `to_json`; lists come back as tuples.

  Args:
    allow_code: import the modules of specs that are not ours, which are else a ConfigError.
    keep_unknown: keep specs that are not found as dicts, to be compared or shown.
  """
  options = {"allow_code": allow_code, "keep_unknown": keep_unknown}
  if isinstance(value, Mapping):
    fields = {k: from_json(v, **options) for k, v in value.items() if k != _KIND}
    if _KIND not in value:
      return fields
    try:
      cls = resolve(value[_KIND], allow_code=allow_code)
      known = {field.name for field in dataclasses.fields(cls)}
      return cls(**{k if k in known else _RENAMED.get(k, k): v for k, v in fields.items()})
    except errors.ConfigError:
      if keep_unknown:
        return {_KIND: value[_KIND], **fields}
      raise
  if isinstance(value, (tuple, list)):
    return tuple(from_json(v, **options) for v in value)
  return value


def resolve(path: Any, *, allow_code: bool = False) -> type:
  """The spec class named `my_package.module:MySpec`; a ConfigError when there is none.

  Only modules that are loaded already and ours are used, unless `allow_code`. A class of ours that
  has moved to another file since the configuration was saved is found by its name.
  """
  module_name, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
  if not all(part.isidentifier() for part in (*module_name.split("."), name)):
    raise errors.ConfigError(f"{path!r} names no spec; expected 'module:Class'.")
  module = sys.modules.get(module_name)
  if module is None:
    if moved := _moved(module_name, name):
      return moved
    if not allow_code and not module_name.startswith(_OURS):
      raise errors.ConfigError(f"{path!r} {CODE_REFUSED}")
    remedy = "If it is of a config file that has moved, give that with --config."
    module = _imported(module_name, f"Cannot import the module of {path!r}", remedy)
  cls = vars(module).get(name) or _moved(module_name, name)
  if _is_spec_class(cls):
    return cls
  raise errors.ConfigError(f"{path!r} is not a spec: declare the class with @spec.")


def _imported(name: str, failed: str, remedy: str) -> types.ModuleType:
  """The user's module; ConfigError with these words around the reason where it fails."""
  try:
    return importlib.import_module(name)
  except Exception as e:  # Of the user's module: any.
    raise errors.ConfigError(f"{failed}: {type(e).__name__}: {e}. {remedy}") from None


def _moved(module_name: str, name: str) -> type | None:
  """The spec of ours of that name, wherever it is now; None when there is none."""
  if module_name.startswith("paligemma_jax."):
    for room in _SPECS:
      found = vars(importlib.import_module(f"paligemma_jax.{room}")).get(name)
      if _is_spec_class(found):
        return found
  return None


def _field_types(cls: type) -> dict[str, list[tuple[tuple[type, ...], str]]]:
  """{field: its types} for annotations that name only plain types."""
  found = {}
  for field in dataclasses.fields(cls):
    kinds = [kind.partition("[")[0].strip() for kind in str(field.type).split("|")]
    if all(kind in _TYPES for kind in kinds):
      found[field.name] = [_TYPES[kind] for kind in kinds]
  return found


def _check_type(value: Any, types: list[tuple[tuple[type, ...], str]], where: str) -> None:
  for classes, _ in types:
    if isinstance(value, classes) and (bool in classes or not isinstance(value, bool)):
      return
  expected = " or ".join(words for _, words in types)
  hint = f"; one alone needs a comma: ({value!r},)" if "tuple" in expected else ""
  raise errors.ConfigError(f"{where} must be {expected}, not {value!r}{hint}.")


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
