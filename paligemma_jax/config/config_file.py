"""Runs a user's config file, and reports an error in it as one sentence with its line.

The file becomes a module, whose name identifies the specs that it declares: in a run's config.json
and in data for other processes, where `find_again` makes the name known.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import math
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs


def run(path: str, text: str) -> Any:
  """The result of the file's `get_config` with the arguments in `text`.

  A ConfigError for no such file, no get_config in it, and any error while it runs.
  """
  file = _existing(path)
  try:
    module = _imported(file)
  except Exception as e:
    raise _explained(e, file) from e
  get_config = getattr(module, "get_config", None)
  if not isinstance(get_config, types.FunctionType):
    raise errors.ConfigError(f"{path} has no function get_config.")
  original = getattr(get_config, "__wrapped__", get_config)
  given = arguments(text, parameters(original), path)
  try:
    with neighbours(file):
      return get_config(**given)
  except Exception as e:
    raise _explained(e, file) from e


def ran() -> dict[str, str]:
  """{module name: file} of the config files that this process has run."""
  found = {}
  for name, module in list(sys.modules.items()):
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if isinstance(loader, _Loader):
      found[name] = str(loader.path)
  return found


def find_again(files: Mapping[str, str]) -> None:
  """Lets imports of these modules run these files; modules beside them can be imported too."""
  sys.meta_path.insert(0, _Finder(dict(files)))
  sys.path.extend(dict.fromkeys(str(pathlib.Path(file).parent) for file in files.values()))


def _existing(path: str) -> pathlib.Path:
  """The file of that name, with or without its '.py', else the page of ours."""
  file = pathlib.Path(path)
  for found in (file, pathlib.Path(f"{path}.py"), find_page(path)):
    if found is not None and found.is_file():
      return found.resolve()
  around = sorted(str(p) for p in _python_files(file.parent if file.parent.is_dir() else "."))
  around += sorted(str(p) for folder in ("transfers", "configs") for p in _python_files(folder))
  around += [*page_names(), *(f"{_FOLDER}/{name}.py" for name in page_names())]
  hint = errors.did_you_mean(path, dict.fromkeys(around))
  raise errors.ConfigError(f"There is no config file {path!r}.{hint}")


def _python_files(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
  return (p for p in pathlib.Path(folder).glob("*.py") if p.name != "__init__.py")


def _imported(file: pathlib.Path) -> types.ModuleType:
  """Runs the file as a module, under a name by which its specs are found again."""
  name = _module_name(file)
  module = importlib.util.module_from_spec(_module_spec(name, file))
  before = sys.modules.get(name)
  sys.modules[name] = module
  try:
    _Loader(name, str(file)).exec_module(module)
  except BaseException:
    sys.modules.pop(name)
    if before is not None:
      sys.modules[name] = before
    raise
  return module


def _module_name(file: pathlib.Path) -> str:
  """'transfers.vqav2' for files under a folder of sys.path, else 'config_file_<stem>'."""
  for entry in sys.path:
    root = pathlib.Path(entry or ".").resolve()
    if file.is_relative_to(root):
      parts = file.relative_to(root).with_suffix("").parts
      name = ".".join(parts)
      # Not the name of another module, as 'json' for a config file json.py.
      there = sys.modules.get(name)
      is_another = there is not None and getattr(there, "__file__", None) != str(file)
      is_taken = is_another or name in sys.stdlib_module_names
      if not is_taken and all(part.isidentifier() for part in parts):
        return name
  # Without its folder, so that the run stays the same when the file has moved.
  return "config_file_" + re.sub(r"\W", "_", file.stem)


def _module_spec(name: str, file: str | pathlib.Path) -> importlib.machinery.ModuleSpec:
  spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
  assert spec is not None and spec.loader is not None, file
  return spec


class _Loader(importlib.machinery.SourceFileLoader):
  """Runs a config file, while the modules beside it can be imported."""

  def exec_module(self, module: types.ModuleType) -> None:
    with neighbours(self.path):
      super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
  """Finds config files by their module names in another process."""

  def __init__(self, files: Mapping[str, str]):
    self._files = files

  def find_spec(self, name, path=None, target=None):
    file = self._files.get(name, "")
    return _module_spec(name, file) if pathlib.Path(file).is_file() else None


@contextlib.contextmanager
def neighbours(file: str | pathlib.Path) -> Iterator[None]:
  """Within the block the modules in the file's folder can be imported, after all others."""
  folder = str(pathlib.Path(file).parent.resolve())
  sys.path.append(folder)
  try:
    yield
  finally:
    # Only the last one, since the user's file may have changed sys.path too.
    last = max((i for i, entry in enumerate(sys.path) if entry == folder), default=None)
    if last is not None:
      del sys.path[last]


def _explained(error: Exception, file: pathlib.Path) -> errors.ConfigError:
  """The error as a ConfigError that begins with the user's file and line."""
  if isinstance(error, SyntaxError):
    return errors.ConfigError(f"{error.filename}:{error.lineno}: {error.msg}.")
  frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
  where = f"{file}:{frames[-1].lineno}" if frames else str(file)
  return errors.ConfigError(f"{where}: {_reason(error)}")


def _reason(error: Exception) -> str:
  if isinstance(error, errors.PaligemmaError):
    return str(error)
  section = _section(error)
  unknown = re.match(r'\W*(?:Key ")?(\w+)', str(error))
  if section is not None and isinstance(error, (AttributeError, KeyError)) and unknown:
    return schema.unknown_key(unknown[1], section)
  field = re.match(r"Could not override field '(\w+)'", str(error))
  if section is not None and isinstance(error, TypeError) and field:
    path = f"{section}.{field[1]}" if section else field[1]
    kinds = re.search(r"\(reference\)\. (.*) is of original type <class '([\w.]+)'>", str(error))
    default = schema.flat()[path].default if path in schema.flat() else None
    expected = "a section" if default is None else f"of type {type(default).__name__}"
    found = f"{kinds[1]} is {kinds[2]}" if kinds else str(error)
    return f"{path} must be {expected}, but {found}."
  close = errors.near(*_missing(error))
  hint = f". Did you mean {' or '.join(map(repr, close))}?" if close else ""
  return f"{type(error).__name__}: {error}{hint}"


def _missing(error: Exception) -> tuple[str, list[str]]:
  """The name that does not exist and the existing ones; ('', []) for other errors."""
  if isinstance(error, NameError) and error.name:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return error.name, [*frames[-1].f_locals, *frames[-1].f_globals]
  for pattern in (
    r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'",
    r"cannot import name '(?P<name>\w+)' from '(?P<module>[\w.]+)'",
  ):
    if found := re.match(pattern, str(error)):
      known = dir(sys.modules.get(found["module"]))
      return found["name"], [name for name in known if not name.startswith("_")]
  return "", []


def _section(error: Exception) -> str | None:
  """The section of the schema in which an error was raised, '' for the top; None for others.

  It is found from the ConfigDict in the error's frames, since ml_collections does not name it.
  """
  found = None
  for frame, _ in traceback.walk_tb(error.__traceback__):
    owner = frame.f_locals.get("self")
    if isinstance(owner, ml_collections.ConfigDict):
      for name, keys in schema.sections().items():
        if set(owner.keys()) == set(keys):
          found = name
  return found


_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_FOLDER = "transfers"


def pages_folder() -> pathlib.Path:
  """The folder of our pages."""
  inside = _PACKAGE / _FOLDER
  return inside if inside.is_dir() else _PACKAGE.parent / _FOLDER


def page_names() -> list[str]:
  """The names of our pages, as 'okvqa'; [] in a package without them."""
  return sorted(file.stem for file in pages_folder().glob("*.py") if file.stem != "__init__")


def find_page(path: str) -> pathlib.Path | None:
  """The file of 'transfers/okvqa.py', 'okvqa.py' or 'okvqa'; None when there is no such page."""
  asked = pathlib.PurePosixPath(path)
  stem = asked.name.removesuffix(".py")
  if str(asked.parent) not in (".", _FOLDER) or stem not in page_names():
    return None
  return pages_folder() / f"{stem}.py"


_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


def parse(text: str, kind: type, what: str) -> Any:
  """`text` as a bool, int, float, str, tuple or dict; else a ConfigError that names `what`."""
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
  """{'res': int, …}: the arguments of a get_config function and their types.

  A ConfigError for one without a default, or of a type other than bool, int, float and str.
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


def check_argument(name: str, kinds: Mapping[str, type], what: str) -> None:
  """Raises a ConfigError with the near matches where there is no such argument."""
  if name not in kinds:
    known = errors.did_you_mean(name, kinds) if kinds else " It takes none."
    raise errors.ConfigError(f"{what} has no argument {name!r}.{known}")


def arguments(text: str, kinds: Mapping[str, type], what: str) -> dict[str, Any]:
  """'res=448,final' -> {'res': 448, 'final': True}, of these `parameters`; errors name `what`."""
  values: dict[str, Any] = {}
  for part in filter(None, (p.strip() for p in text.split(","))):
    name, equals, value = (p.strip() for p in part.partition("="))
    check_argument(name, kinds, what)
    if name in values:
      raise errors.ConfigError(f"{what}: argument {name!r} is given twice.")
    if not equals and kinds[name] is not bool:
      raise errors.ConfigError(f"{what}: argument {name!r} needs a value, as in '{name}=…'.")
    values[name] = parse(value, kinds[name], f"{what}: {name}") if equals else True
  return values


def override(config: ml_collections.ConfigDict, path: str, text: str) -> None:
  """Sets `config.<path>` to `text`, read as the type of the present value, else a ConfigError.

  The path may continue into specs and tuples: 'train.source.path', 'evals.0.limit'.
  """
  names = schema.sections()
  section, _, rest = path.partition(".")
  if not section or section not in names:
    section, rest = "", path
  name, _, deeper = rest.partition(".")
  if section and not name:
    shown = ", ".join(f"{section}.{name}" for name in names[section])
    raise errors.ConfigError(f"{path!r} is a section, not a key; its keys are {shown}.")
  if name not in names[section]:
    raise errors.ConfigError(schema.unknown_key(name, section))
  place = config[section] if section else config
  what = f"{section}.{name}" if section else name
  place[name] = _changed(place[name], deeper, text, what)


def _changed(value: Any, path: str, text: str, what: str) -> Any:
  """`value` with the part at `path` replaced by the parsed text."""
  first, _, rest = path.partition(".")
  if not first:
    is_nothing = text.strip().lower() in ("()", "[]", "none", "")
    holds_specs = isinstance(value, tuple) and any(specs.is_spec(v) for v in value)
    if what in schema.code():
      return None if is_nothing else text
    if is_nothing and (holds_specs or what in ("evals", "log.trackers")):
      return ()
    if what == "log.trackers" and not text.lstrip().startswith(("(", "[")):
      return tuple(name.strip() for name in text.split(","))
    if value is None or specs.is_spec(value) or holds_specs:
      raise errors.ConfigError(
        f"{what} holds specs, which are set in the config file. A field of one can be set as in"
        " 'train.source.path=…' or 'evals.0.limit=…', and 'evals=none' removes all evaluators."
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
    new: Any = text  # Without a present value, its type is that of the text.
    with contextlib.suppress(ValueError, SyntaxError):
      new = ast.literal_eval(text)
    return {**free, first: new}
  raise errors.ConfigError(f"{what} is {value!r}; it has no parts.")
