"""Runs a user's config file, and turns what goes wrong in it into one sentence with its line.

The file becomes a module, and the specs that it declares are known by that module's name: in a
run's config.json, and in what is sent to another process, where `find_again` makes the name known.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import ml_collections

from paligemma_jax.config import override_values
from paligemma_jax.config import pages
from paligemma_jax.config import schema
from paligemma_jax.core import errors


def run(path: str, text: str) -> Any:
  """What `get_config` of the file returns, called with the arguments in `text`.

  Raises:
    ConfigError: no such file, no get_config in it, or any error while it runs.
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
  arguments = override_values.arguments(text, override_values.parameters(original), path)
  try:
    with _neighbours(file):
      return get_config(**arguments)
  except Exception as e:
    raise _explained(e, file) from e


def ran() -> dict[str, str]:
  """{module name: file} of the config files that this process has run."""
  return {
    name: module.__spec__.loader.path
    for name, module in list(sys.modules.items())
    if isinstance(getattr(getattr(module, "__spec__", None), "loader", None), _Loader)
  }


def find_again(files: Mapping[str, str]) -> None:
  """From now on an import of these modules runs these files; nothing is run before."""
  sys.meta_path.insert(0, _Finder(dict(files)))


def _existing(path: str) -> pathlib.Path:
  """The file of that name here, with or without its '.py', else the page of ours."""
  file = pathlib.Path(path)
  for found in (file, pathlib.Path(f"{path}.py"), pages.find(path)):
    if found is not None and found.is_file():
      return found.resolve()
  around = sorted(str(p) for p in _python_files(file.parent if file.parent.is_dir() else "."))
  around += sorted(str(p) for folder in ("transfers", "configs") for p in _python_files(folder))
  around += pages.likely()
  hint = errors.did_you_mean(path, dict.fromkeys(around)) if around else ""
  raise errors.ConfigError(f"There is no config file {path!r}.{hint}")


def _python_files(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
  return (p for p in pathlib.Path(folder).glob("*.py") if p.name != "__init__.py")


def _imported(file: pathlib.Path) -> types.ModuleType:
  """The file as a module, freshly run, under a name by which its own specs are found again."""
  name = _module_name(file)
  spec = _module_spec(name, file)
  module = importlib.util.module_from_spec(spec)
  before = sys.modules.get(name)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
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
      if all(part.isidentifier() for part in parts) and not _is_another(name, file):
        return name
  # Wherever it lies, so that a run is the same run when the file has moved.
  return "config_file_" + re.sub(r"\W", "_", file.stem)


def _is_another(name: str, file: pathlib.Path) -> bool:
  """True of 'json' for a config file json.py: it must not take the place of the other module."""
  there = sys.modules.get(name)
  of_python = name in sys.stdlib_module_names
  return of_python or (there is not None and getattr(there, "__file__", None) != str(file))


def _module_spec(name: str, file: str | pathlib.Path) -> importlib.machinery.ModuleSpec:
  spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
  assert spec is not None and spec.loader is not None, file
  return spec


class _Loader(importlib.machinery.SourceFileLoader):
  """Runs a config file; what lies beside the file can be imported meanwhile."""

  def exec_module(self, module: types.ModuleType) -> None:
    with _neighbours(pathlib.Path(self.path)):
      super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
  """Finds config files by the names that they had in another process."""

  def __init__(self, files: Mapping[str, str]):
    self._files = files

  def find_spec(
    self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    del path, target
    file = self._files.get(name, "")
    return _module_spec(name, file) if pathlib.Path(file).is_file() else None


@contextlib.contextmanager
def _neighbours(file: pathlib.Path) -> Iterator[None]:
  """While the block runs, the modules in the file's folder can be imported, after all others."""
  folder = str(file.parent)
  sys.path.append(folder)
  try:
    yield
  finally:
    # The last one: the user's file may have changed sys.path too.
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
  """A name that does not exist, and those that do in its place; '' and none for other errors."""
  text = str(error)
  of_module = re.match(r"module '([\w.]+)' has no attribute '(\w+)'", text)
  if of_import := re.match(r"cannot import name '(\w+)' from '([\w.]+)'", text):
    name, module = of_import.groups()
  elif of_module:
    module, name = of_module.groups()
  elif isinstance(error, NameError) and error.name:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return error.name, [*frames[-1].f_locals, *frames[-1].f_globals]
  else:
    return "", []
  return name, [known for known in dir(sys.modules.get(module)) if not known.startswith("_")]


def _section(error: Exception) -> str | None:
  """Which section of the schema refused, '' for the top; None when none did.

  The message of ml_collections does not say it, the ConfigDict in its frames does.
  """
  found = None
  for frame, _ in traceback.walk_tb(error.__traceback__):
    owner = frame.f_locals.get("self")
    if isinstance(owner, ml_collections.ConfigDict):
      for name, keys in schema.sections().items():
        if set(owner.keys()) == set(keys):
          found = name
  return found
