"""Configurations: made with defaults, loaded from a file, overridden, checked, saved, compared."""

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

validate = validation.validate  # One door: `config.load`, `config.validate`, `config.save`.


def default_config() -> ml_collections.ConfigDict:
  """A locked ConfigDict with every legal key at its default (see `schema.SCHEMA`)."""
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
  """Decorates a `get_config` so that its arguments can be set after a colon and by name.

  Every argument has a default and is a bool, int, float or str; `--config file.py:res=448` sets
  it. A misspelled name is a ConfigError with the near match, also when called from Python.
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
  """The configuration that a file makes, overridden; not yet validated.

  Args:
    spec: 'transfers/vqav2.py:res=448,tune=lora', or a 'config.json' that `save` wrote.
    overrides: 'optim.lr=3e-5' or ('optim.lr', '3e-5'), applied in order; typed by the value that
      is there.
    allow_code: of a 'config.json': import modules that it names and that are not ours. A file
      with get_config is code, and naming it is consent.

  Raises:
    ConfigError: no such file, an error in it (named with its line), an unknown argument or key.
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
  """Puts functions in place of the texts that name them (see `schema.code`): code of the user's.

  Only for a configuration whose code may run; elsewhere the texts stay, and a run refuses them.
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
  """A copy of a configuration from Python, overridden; not yet validated.

  Args:
    allow_code: import functions that the configuration names by a text.

  Raises:
    ConfigError: it is none that `default_config` made, or an override that `load` would refuse.
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
  """Applies overrides in order, as `load` takes them."""
  for item in overrides:
    key, equals, value = item.partition("=") if isinstance(item, str) else (item[0], "=", item[1])
    if not equals:
      raise errors.ConfigError(f"{item!r} is not an override; write 'key=value'.")
    config_file.override(config, key.strip(), value)


def save(config: ml_collections.ConfigDict, path: str | os.PathLike[str]) -> None:
  """Writes the configuration as JSON, atomically; `read` gives back an equal one.

  Where config files lie whose specs it holds is written beside it, for `read` with consent.
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
  """The configuration that `save` wrote.

  Args:
    allow_code, keep_unknown: what is done about specs that are not ours, see `spec.from_json`.

  Raises:
    ConfigError: no such file, no JSON, a key that this version does not know, or code that is not
      allowed.
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
  """What an older version saved, under the keys of this one."""
  out = {name: dict(value) if isinstance(value, Mapping) else value for name, value in data.items()}
  for old, new in schema.RENAMED.items():
    (section, name), name_now = old.split("."), new.rpartition(".")[2]
    if isinstance(out.get(section), dict) and name in out[section]:
      out[section].setdefault(name_now, out[section].pop(name))
  return out


def from_plain(data: Mapping[str, Any], what: str) -> ml_collections.ConfigDict:
  """A configuration from nested plain data; keys that are absent keep their defaults.

  Args:
    what: where the data is from, named in errors.
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
  """16 hex digits that are equal for equal sections, specs and plain values."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  text = json.dumps(specs.to_json(value), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, list[str]]:
  """What differs between the configuration of a run and the one it is resumed with.

  Returns:
    {"refuse": [...], "data": [...], "moved": [...], "warn": [...], "allow": [...]}: by the policy
    of each key (`Key.resume`), sentences such as "train.pp[1].size: 224 -> 448", one for each
    field. "moved" are the paths of "data": what lies there decides.
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
  """{module: config file}; {} when none were written or they are of no use."""
  try:
    files = strict_json.read_object(path)
  except (OSError, strict_json.Malformed):
    return {}
  return {name: file for name, file in files.items() if isinstance(file, str)}


def _plain(value: Any) -> Any:
  return specs.to_json(value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value)


def is_place(path: str) -> bool:
  """True of 'train.source.parts[0].source.path': it says where, not what."""
  field = path.rpartition(".")[2]
  return path == "tokenizer" or (field in schema.PLACES and "pp" not in re.findall(r"\w+", path))


def _own_name(value: Any) -> Any:
  """A function by its name alone: its module's is another one where its file has moved."""
  text = value if isinstance(value, str) else specs.function_path(value)
  return text.rpartition(":")[2] or value


def _default(key: schema.Key) -> Any:
  if key.form in ("spec", "code"):  # Or a value of one class could not replace one of another.
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
  """One value that differs.

  Attributes:
    path: 'train.pp[1].size'.
    text: 'train.pp[1].size: 224 -> 448'.
  """

  path: str
  text: str


def between(before: Any, after: Any, path: str) -> list[Difference]:
  """The least parts that differ, in order; [] for equal data.

  A spec of the user's is known by its class alone, and not by the module that its class is in,
  whose name depends on where the file lies.

  Args:
    before, after: what `spec.to_json` gives.
    path: what the whole is called.
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
  return [] if _same(before, after) else [_changed(path, before, after)]


def nameless(value: Any) -> Any:
  """The data without the modules of the user's specs: equal for equal specs, wherever they lie."""
  if isinstance(value, Mapping):
    inside = {name: nameless(v) for name, v in value.items()}
    return {**inside, _KIND: _kind(value)} if _KIND in value else inside
  return [nameless(v) for v in value] if _is_list(value) else value


def shown(value: Any) -> str:
  """'Resize(size=224)' for a spec, else the value as Python writes it; cut when it is long."""
  text = _text(value)
  return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _of_lists(before: list[Any], after: list[Any], path: str) -> list[Difference]:
  if len(before) == len(after):
    return [
      found
      for i, (old, new) in enumerate(zip(before, after, strict=True))
      for found in between(old, new, f"{path}[{i}]")
    ]
  if len(before) + len(after) > 1000:  # Thousands of plain values: no one reads them.
    return [_changed(path, before, after)]
  old, new = ([json.dumps(nameless(v), sort_keys=True) for v in s] for s in (before, after))
  found = []
  matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
  for what, i, i_end, j, j_end in matcher.get_opcodes():
    if what == "equal":
      continue
    found += [_said(f"{path}[{k}]", f"{shown(before[k])} is gone") for k in range(i, i_end)]
    found += [_said(f"{path}[{k}]", f"{shown(after[k])} is new") for k in range(j, j_end)]
  return found


def _changed(path: str, before: Any, after: Any) -> Difference:
  return _said(path, f"{shown(before)} -> {shown(after)}")


def _said(path: str, text: str) -> Difference:
  return Difference(path, f"{path}: {text}")


def _kind(value: Mapping[str, Any]) -> str:
  kind = str(value.get(_KIND, ""))
  return kind if kind.startswith(_OURS) else kind.rpartition(":")[2]


def _same(before: Any, after: Any) -> bool:
  return before == after and isinstance(before, bool) == isinstance(after, bool)


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
