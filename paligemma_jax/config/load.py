"""Makes, loads, overrides, saves and compares configurations."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from paligemma_jax.config import config_file
from paligemma_jax.config import schema
from paligemma_jax.config import validation
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.core import strict_json

validate = validation.validate  # So that callers need only this module.


def default_config() -> ml_collections.ConfigDict:
  """A locked ConfigDict of all keys of `schema.SCHEMA`, with their defaults."""
  config = ml_collections.ConfigDict()
  for name, entry in schema.SCHEMA.items():
    if isinstance(entry, schema.Key):
      config[name] = _default(entry)
    else:
      config[name] = ml_collections.ConfigDict()
      for child, key in entry.items():
        config[name][child] = _default(key)
  config.lock()
  for path, key in schema.flat().items():
    if key.form == "free":
      section, _, name = path.rpartition(".")
      config[section][name].unlock()
  return config


def sweepable(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Decorates a `get_config` whose arguments `--config file.py:res=448` sets.

  Every argument has a default and is a bool, int, float or str. A misspelled name is a ConfigError
  with the near match, also when called from Python.
  """
  kinds = config_file.parameters(fn)

  @functools.wraps(fn)
  def get_config(*args, **kwargs):
    for name in kwargs:
      if name not in kinds:
        known = errors.did_you_mean(name, kinds) if kinds else " It takes none."
        raise errors.ConfigError(f"{fn.__name__} has no argument {name!r}.{known}")
    return fn(*args, **kwargs)

  return get_config


def load(
  spec: str, overrides: Sequence[str | tuple[str, str]] = (), *, allow_code: bool = False
) -> ml_collections.ConfigDict:
  """The configuration of a file, overridden but not yet validated.

  Args:
    spec: 'transfers/vqav2.py:res=448,tune=lora', or a 'config.json' that `save` wrote.
    overrides: 'optim.lr=3e-5' or ('optim.lr', '3e-5'), applied in order; read as the type of the
      present value.
    allow_code: let a 'config.json' import modules that are not ours. For a file with get_config,
      which is code, naming it is consent.

  Raises:
    ConfigError: no such file, an error in it (with its line), an unknown argument or key.
  """
  path, _, text = spec.partition(":")
  if path.endswith(".json"):
    if text:
      raise errors.ConfigError(f"{path} is a saved configuration; it takes no arguments.")
    config = read(path, allow_code=allow_code)
  else:
    config = config_file.run(path, text)
    allow_code = True
    if not isinstance(config, ml_collections.ConfigDict):
      raise errors.ConfigError(
        f"{path}: get_config returned {type(config).__name__}; it must return the"
        " ConfigDict of default_config()."
      )
  _override(config, overrides)
  if allow_code:
    with config_file.neighbours(path):
      import_code(config)
  return config


def import_code(config: ml_collections.ConfigDict) -> None:
  """Replaces the names of the user's functions (see `schema.code`) by these functions.

  Only for a configuration whose code may run; otherwise the names stay, and a run refuses them.
  """
  for key in schema.code():
    section, _, name = key.rpartition(".")
    value = config[section][name]
    if isinstance(value, str):
      validation.check("code", key, value)
      config[section][name] = specs.function(value, key)


def overridden(
  config: ml_collections.ConfigDict,
  overrides: Sequence[str | tuple[str, str]] = (),
  *,
  allow_code: bool = False,
) -> ml_collections.ConfigDict:
  """A copy of a configuration from Python, overridden but not yet validated.

  Args:
    allow_code: import the functions that the configuration names.

  Raises:
    ConfigError: it is no ConfigDict of `default_config`, or a wrong override as of `load`.
  """
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.ConfigError(
      f"A configuration is the ConfigDict of default_config(), not {type(config).__name__}."
    )
  copied = from_plain(config.to_dict(), "the configuration")
  _override(copied, overrides)
  if allow_code:
    import_code(copied)
  return copied


def _override(
  config: ml_collections.ConfigDict, overrides: Sequence[str | tuple[str, str]]
) -> None:
  for item in overrides:
    key, equals, value = item.partition("=") if isinstance(item, str) else (item[0], "=", item[1])
    if not equals:
      raise errors.ConfigError(f"{item!r} is not an override; write 'key=value'.")
    config_file.override(config, key.strip(), value)


def save(config: ml_collections.ConfigDict, path: str | os.PathLike[str]) -> None:
  """Writes the configuration as JSON, atomically, for `read`.

  The paths of config files whose specs it holds go into a file beside it.
  """
  text = json.dumps(specs.to_json(config.to_dict()), indent=2, allow_nan=False) + "\n"
  ran = config_file.ran()
  files = {name: file for name, file in ran.items() if f': "{name}:' in text}
  if files:
    atomic_io.write_atomically(_files_beside(path), json.dumps(files, indent=2) + "\n")
  atomic_io.write_atomically(path, text)


def read(
  path: str | os.PathLike[str], *, allow_code: bool = False, keep_unknown: bool = False
) -> ml_collections.ConfigDict:
  """The configuration that `save` wrote; `allow_code` and `keep_unknown` as of `spec.from_json`.

  Raises:
    ConfigError: no such file, no JSON, an unknown key, or code that is not allowed.
  """
  try:
    data = strict_json.read_object(path)
  except OSError as e:
    raise errors.ConfigError(
      f"Cannot read the configuration {str(path)!r}: {strict_json.reason(e)}."
    ) from None
  except strict_json.Malformed as e:
    raise errors.ConfigError(f"{path} is not a saved configuration: {e}.") from None
  if allow_code:
    config_file.find_again(_read_files(_files_beside(path)))
  try:
    plain = specs.from_json(data, allow_code=allow_code, keep_unknown=keep_unknown)
  except errors.ConfigError as e:
    raise errors.ConfigError(f"{path}: {e}") from None
  if not isinstance(plain, Mapping):
    raise errors.ConfigError(f"{path} is not a saved configuration: it is a single spec.")
  return from_plain(_with_new_names(plain), str(path))


def _with_new_names(data: Mapping[str, Any]) -> dict[str, Any]:
  """Renames the keys of older versions."""
  out = {name: dict(value) if isinstance(value, Mapping) else value for name, value in data.items()}
  for old, new in schema.RENAMED.items():
    (section, name), name_now = old.split("."), new.rpartition(".")[2]
    if isinstance(out.get(section), dict) and name in out[section]:
      out[section].setdefault(name_now, out[section].pop(name))
  return out


def from_plain(data: Mapping[str, Any], what: str) -> ml_collections.ConfigDict:
  """A configuration from nested plain data, with defaults for absent keys.

  Args:
    what: the origin of the data, named in errors.
  """
  config = default_config()
  names = schema.sections()
  for name, value in data.items():
    if name not in names[""]:
      raise errors.ConfigError(f"{what}: {schema.unknown_key(name)}")
    if name not in names:
      _assign(config, name, value, f"{what}: {name}")
      continue
    if not isinstance(value, Mapping):
      raise errors.ConfigError(f"{what}: {name!r} is a section, not {value!r}.")
    for child, child_value in value.items():
      if child not in names[name]:
        raise errors.ConfigError(f"{what}: {schema.unknown_key(child, name)}")
      _assign(config[name], child, child_value, f"{what}: {name}.{child}")
  return config


def fingerprint(value: Any) -> str:
  """16 hex digits of a digest of a section, a spec or a plain value."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  text = json.dumps(specs.to_json(value), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, list[str]]:
  """The differences between the configuration of a run and the one that it is resumed with.

  Returns:
    {policy of the key (`Key.resume`): texts such as "train.pp[1].size: 224 -> 448"}. The paths
    among "data" come under "moved", since only a change of the content there matters.
  """
  found: dict[str, list[str]] = {
    policy: [] for policy in ("refuse", "data", "moved", "warn", "allow")
  }
  for path, key in schema.flat().items():
    section, _, name = path.rpartition(".")
    before = (old[section] if section else old)[name]
    after = (new[section] if section else new)[name]
    if key.form == "code":
      before, after = (_own_name(value) for value in (before, after))
    for one in between(_plain(before), _plain(after), path):
      moved = key.resume == "data" and is_place(one.path)
      found["moved" if moved else key.resume].append(one.text)
  return found


def _files_beside(path: str | os.PathLike[str]) -> str:
  return os.path.join(os.path.dirname(path), "config_files.json")


def _read_files(path: str) -> dict[str, str]:
  """{module: config file}; {} when there are none, or the file is unreadable."""
  try:
    files = strict_json.read_object(path)
  except (OSError, strict_json.Malformed):
    return {}
  return {name: file for name, file in files.items() if isinstance(file, str)}


def _plain(value: Any) -> Any:
  return specs.to_json(value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value)


def is_place(path: str) -> bool:
  """Whether the key is a path, as 'train.source.parts[0].source.path'."""
  field = path.rpartition(".")[2]
  return path == "tokenizer" or (field in schema.PLACES and "pp" not in re.findall(r"\w+", path))


def _own_name(value: Any) -> Any:
  """The name of a function without its module, which changes when the file moves."""
  text = value if isinstance(value, str) else specs.function_path(value)
  return text.rpartition(":")[2] or value


def _default(key: schema.Key) -> Any:
  if key.form in ("spec", "code"):  # So that another class may replace it.
    return ml_collections.config_dict.placeholder(object)
  return copy.copy(key.default)


def _assign(section: ml_collections.ConfigDict, name: str, value: Any, what: str) -> None:
  try:
    section[name] = value
  except (TypeError, ValueError, KeyError, AttributeError) as e:  # Of ml_collections.
    raise errors.ConfigError(f"{what}: {e}.") from None


_KIND = "__spec__"
_OURS = "paligemma_jax."
_SHOWN_CHARS = 100
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Difference:
  """One value that differs: its path 'train.pp[1].size' and 'train.pp[1].size: 224 -> 448'."""

  path: str
  text: str


def between(before: Any, after: Any, path: str) -> list[Difference]:
  """The smallest parts that differ between two results of `spec.to_json`, in order.

  Specs of the user are compared by class name, since their module's name depends on its path.

  Args:
    path: of the whole.
  """
  if isinstance(before, Mapping) and isinstance(after, Mapping):
    if _kind(before) != _kind(after):
      return [_changed(path, before, after)]
    names = [name for name in dict.fromkeys((*before, *after)) if name != _KIND]
    return [
      found
      for name in names
      for found in between(before.get(name, _ABSENT), after.get(name, _ABSENT), f"{path}.{name}")
    ]
  if _is_list(before) and _is_list(after):
    return _of_lists(list(before), list(after), path)
  is_same = before == after and isinstance(before, bool) == isinstance(after, bool)
  return [] if is_same else [_changed(path, before, after)]


def nameless(value: Any) -> Any:
  """The data without the module names of the user's specs, which depend on their paths."""
  if isinstance(value, Mapping):
    inside = {name: nameless(v) for name, v in value.items()}
    return {**inside, _KIND: _kind(value)} if _KIND in value else inside
  return [nameless(v) for v in value] if _is_list(value) else value


def shown(value: Any) -> str:
  """'Resize(size=224)' for a spec, else the repr of the value; truncated when long."""
  text = _text(value)
  return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _of_lists(before: list[Any], after: list[Any], path: str) -> list[Difference]:
  if len(before) == len(after):
    return [
      found
      for i, (old, new) in enumerate(zip(before, after, strict=True))
      for found in between(old, new, f"{path}[{i}]")
    ]
  if len(before) + len(after) > 1000:  # Too many to list.
    return [_changed(path, before, after)]
  old, new = ([json.dumps(nameless(v), sort_keys=True) for v in s] for s in (before, after))
  found = []
  matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
  for what, i, i_end, j, j_end in matcher.get_opcodes():
    if what == "equal":
      continue
    found += [_difference(f"{path}[{k}]", f"{shown(before[k])} is gone") for k in range(i, i_end)]
    found += [_difference(f"{path}[{k}]", f"{shown(after[k])} is new") for k in range(j, j_end)]
  return found


def _changed(path: str, before: Any, after: Any) -> Difference:
  return _difference(path, f"{shown(before)} -> {shown(after)}")


def _difference(path: str, text: str) -> Difference:
  return Difference(path, f"{path}: {text}")


def _kind(value: Mapping[str, Any]) -> str:
  kind = str(value.get(_KIND, ""))
  return kind if kind.startswith(_OURS) else kind.rpartition(":")[2]


def _is_list(value: Any) -> bool:
  return isinstance(value, (list, tuple))


def _text(value: Any) -> str:
  if value is _ABSENT:
    return "(absent)"
  if isinstance(value, Mapping) and _KIND in value:
    fields = ", ".join(f"{k}={_text(v)}" for k, v in value.items() if k != _KIND)
    return f"{str(value[_KIND]).rpartition(':')[2]}({fields})"
  if isinstance(value, Mapping):
    return "{" + ", ".join(f"{k!r}: {_text(v)}" for k, v in value.items()) + "}"
  if _is_list(value):
    inside = ", ".join(map(_text, value))
    return f"({inside},)" if len(value) == 1 else f"({inside})"
  return repr(value)
