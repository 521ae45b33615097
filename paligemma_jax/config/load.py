"""Makes, loads, overrides, saves and compares configurations."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from paligemma_jax.config import config_file
from paligemma_jax.config import schema
from paligemma_jax.config import validation
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
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
      config[name] = {child: _default(key) for child, key in entry.items()}
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
      config_file.check_argument(name, kinds, fn.__name__)
    return fn(*args, **kwargs)

  return get_config


def load(
  spec: str,
  overrides: Sequence[str | tuple[str, str]] = (),
  *,
  allow_code: bool = False,
  unused: Sequence[str] = (),
) -> ml_collections.ConfigDict:
  """The configuration of a file, overridden but not yet validated.

  Args:
    spec: 'transfers/vqav2.py:res=448,tune=lora', or a 'config.json' that `save` wrote.
    overrides: 'optim.lr=3e-5' or ('optim.lr', '3e-5'), applied in order; read as the type of the
      present value.
    allow_code: let a 'config.json' import modules that are not ours. For a file with get_config,
      which is code, naming it is consent.
    unused: keys of a 'config.json' that keep their defaults, so that their code need not run.

  Raises:
    ConfigError: no such file, an error in it (with its line), an unknown argument or key.
  """
  path, _, text = (spec, "", "") if bucket.is_bucket(spec) else spec.partition(":")
  if bucket.is_bucket(path) and not path.endswith(".json"):
    raise errors.ConfigError(f"{path}: a config file is code, which is run from this machine only.")
  if path.endswith(".json") and text:
    raise errors.ConfigError(f"{path} is a saved configuration; it takes no arguments.")
  if path.endswith(".json"):
    config = read(path, allow_code=allow_code, unused=unused)
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
  """A copy of a configuration from Python, overridden (as by `load`) but not yet validated.

  The functions that it names are imported if `allow_code`. A ConfigError for what is no ConfigDict
  of `default_config`, and for wrong overrides.
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
  path: str | os.PathLike[str],
  *,
  allow_code: bool = False,
  keep_unknown: bool = False,
  unused: Sequence[str] = (),
) -> ml_collections.ConfigDict:
  """The configuration that `save` wrote; arguments as of `load` and `spec.from_json`.

  A ConfigError for no such file, no JSON, an unknown key, or code that is not allowed.
  """
  try:
    data = strict_json.read_object(path)
  except OSError as e:
    raise errors.ConfigError(
      f"Cannot read the configuration {str(path)!r}: {strict_json.reason(e)}."
    ) from None
  except strict_json.Malformed as e:
    raise errors.ConfigError(f"{path} is not a saved configuration: {e}.") from None
  for section, _, name in (key.partition(".") for key in unused):
    if isinstance(data.get(section), dict):
      data[section].pop(name, None)
  if allow_code:
    files: dict[str, Any] = {}
    with contextlib.suppress(OSError, strict_json.Malformed):  # There may be none.
      files = strict_json.read_object(_files_beside(path))
    config_file.find_again({name: file for name, file in files.items() if isinstance(file, str)})
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
  """A configuration from nested plain data, with defaults for absent keys; errors name `what`."""
  config = default_config()
  names = schema.sections()
  for name, value in data.items():
    section = name if name in names else ""
    if section and not isinstance(value, Mapping):
      raise errors.ConfigError(f"{what}: {name!r} is a section, not {value!r}.")
    for key, key_value in value.items() if section else ((name, value),):
      if key not in names[section]:
        raise errors.ConfigError(f"{what}: {schema.unknown_key(key, section)}")
      try:
        (config[section] if section else config)[key] = key_value
      except (TypeError, ValueError, KeyError, AttributeError) as e:  # Of ml_collections.
        path = f"{section}.{key}" if section else key
        raise errors.ConfigError(f"{what}: {path}: {e}.") from None
  return config


def changes(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, list[str]]:
  """The differences between the configuration of a run and the one that it is resumed with.

  {policy of the key (`Key.resume`): texts such as "train.pp[1].size: 224 -> 448"}. The paths among
  "data" come under "moved", since only a change of the content there matters.
  """
  found: dict[str, list[str]] = {name: [] for name in ("refuse", "data", "moved", "warn", "allow")}
  for path, key in schema.flat().items():
    section, _, name = path.rpartition(".")
    values = []
    for config in (old, new):
      value = (config[section] if section else config)[name]
      if key.form == "code":  # Without the module, whose name changes when the file moves.
        text = value if isinstance(value, str) else specs.function_path(value)
        value = text.rpartition(":")[2] or value
      is_section = isinstance(value, ml_collections.ConfigDict)
      values.append(specs.to_json(value.to_dict() if is_section else value))
    before, after = values
    for one in between(before, after, path):
      moved = key.resume == "data" and is_place(one.path)
      found["moved" if moved else key.resume].append(one.text)
  return found


def _files_beside(path: str | os.PathLike[str]) -> str:
  return os.path.join(os.path.dirname(path), "config_files.json")


def is_place(path: str) -> bool:
  """Whether the key is a path, as 'train.source.parts[0].source.path'."""
  field = path.rpartition(".")[2]
  return path == "tokenizer" or (field in schema.PLACES and "pp" not in re.findall(r"\w+", path))


def _default(key: schema.Key) -> Any:
  if key.form in ("spec", "code"):  # So that another class may replace it.
    return ml_collections.config_dict.placeholder(object)
  return copy.copy(key.default)


_KIND = "__spec__"
_SHOWN_CHARS = 100
_ABSENT = object()


class Difference(NamedTuple):
  """One value that differs: its path 'train.pp[1].size' and 'train.pp[1].size: 224 -> 448'."""

  path: str
  text: str


def between(before: Any, after: Any, path: str) -> list[Difference]:
  """The smallest parts that differ between two results of `spec.to_json` at `path`, in order.

  Specs of the user are compared by class name, since their module's name depends on its path. A
  field that an older version of one of ours did not have counts as its default.
  """
  return _between(nameless(before), nameless(after), path)


def nameless(value: Any) -> Any:
  """The data with all fields of our specs, and without the module names of the user's."""
  if isinstance(value, Mapping):
    return specs.completed({name: nameless(v) for name, v in value.items()})
  return [nameless(v) for v in value] if isinstance(value, (list, tuple)) else value


def _between(before: Any, after: Any, path: str) -> list[Difference]:
  if isinstance(before, dict) and isinstance(after, dict):
    if before.get(_KIND) == after.get(_KIND):
      return [
        found
        for name in dict.fromkeys((*before, *after))
        for found in _between(before.get(name, _ABSENT), after.get(name, _ABSENT), f"{path}.{name}")
      ]
  elif isinstance(before, list) and isinstance(after, list):
    # A list of different lengths is shown as a whole where it would take long to align.
    if len(before) == len(after) or len(before) + len(after) <= 1000:
      return _of_lists(before, after, path)
  elif before == after and isinstance(before, bool) == isinstance(after, bool):
    return []
  return [_difference(path, f"{shown(before)} -> {shown(after)}")]


def shown(value: Any) -> str:
  """'Resize(size=224)' for a spec, else the repr of the value; truncated when long."""
  text = _text(value)
  return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _of_lists(before: list[Any], after: list[Any], path: str) -> list[Difference]:
  if len(before) == len(after):
    pairs = enumerate(zip(before, after, strict=True))
    return [found for i, pair in pairs for found in _between(*pair, f"{path}[{i}]")]
  old, new = ([json.dumps(v, sort_keys=True) for v in side] for side in (before, after))
  found = []
  matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
  for what, i, i_end, j, j_end in matcher.get_opcodes():
    if what != "equal":
      found += [_difference(f"{path}[{k}]", f"{shown(before[k])} is gone") for k in range(i, i_end)]
      found += [_difference(f"{path}[{k}]", f"{shown(after[k])} is new") for k in range(j, j_end)]
  return found


def _difference(path: str, text: str) -> Difference:
  return Difference(path, f"{path}: {text}")


def _text(value: Any) -> str:
  if value is _ABSENT:
    return "(absent)"
  if isinstance(value, Mapping) and _KIND in value:
    fields = ", ".join(f"{k}={_text(v)}" for k, v in value.items() if k != _KIND)
    return f"{str(value[_KIND]).rpartition(':')[2]}({fields})"
  if isinstance(value, Mapping):
    return "{" + ", ".join(f"{k!r}: {_text(v)}" for k, v in value.items()) + "}"
  if isinstance(value, (list, tuple)):
    inside = ", ".join(map(_text, value))
    return f"({inside},)" if len(value) == 1 else f"({inside})"
  return repr(value)
