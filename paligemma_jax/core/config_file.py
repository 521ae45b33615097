"""Runs a user's config file, and turns what goes wrong in it into one sentence with its line."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
import traceback
import types
import zlib
from collections.abc import Iterator
from typing import Any

import ml_collections

from paligemma_jax.core import errors
from paligemma_jax.core import near_keys
from paligemma_jax.core import schema
from paligemma_jax.core import typed_text


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
  arguments = typed_text.arguments(text, typed_text.parameters(original), path)
  try:
    return get_config(**arguments)
  except Exception as e:
    raise _explained(e, file) from e


def _existing(path: str) -> pathlib.Path:
  file = pathlib.Path(path)
  if file.is_file():
    return file.resolve()
  around = sorted(str(p) for p in _python_files(file.parent if file.parent.is_dir() else "."))
  around += sorted(str(p) for folder in ("transfers", "configs") for p in _python_files(folder))
  hint = errors.did_you_mean(path, dict.fromkeys(around)) if around else ""
  raise errors.ConfigError(f"There is no config file {path!r}.{hint}")


def _python_files(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
  return (p for p in pathlib.Path(folder).glob("*.py") if p.name != "__init__.py")


def _imported(file: pathlib.Path) -> types.ModuleType:
  """The file as a module, freshly run, under a name by which its own specs are found again."""
  root = file.parent.parent
  if (root / "configs" / "__init__.py").is_file() and str(root) not in sys.path:
    sys.path.append(str(root))  # So that transfers find `configs.presets` from any folder.
  name = _module_name(file)
  spec = importlib.util.spec_from_file_location(name, file)
  assert spec is not None and spec.loader is not None, file
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
  """'transfers.vqav2' for files under a folder of sys.path, else the stem made unique."""
  for entry in sys.path:
    root = pathlib.Path(entry or ".").resolve()
    if file.is_relative_to(root):
      parts = file.relative_to(root).with_suffix("").parts
      if all(part.isidentifier() for part in parts):
        return ".".join(parts)
  # Elsewhere: any name will do that no installed module has.
  stem = re.sub(r"\W", "_", file.stem)
  return f"{stem}_{zlib.crc32(str(file).encode()):08x}"


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
    return near_keys.unknown_key(unknown[1], section)
  field = re.match(r"Could not override field '(\w+)'", str(error))
  if section is not None and isinstance(error, TypeError) and field:
    path = f"{section}.{field[1]}" if section else field[1]
    kinds = re.search(r"\(reference\)\. (.*) is of original type <class '([\w.]+)'>", str(error))
    default = schema.flat()[path].default if path in schema.flat() else None
    expected = "a section" if default is None else f"of type {type(default).__name__}"
    found = f"{kinds[1]} is {kinds[2]}" if kinds else str(error)
    return f"{path} must be {expected}, but {found}."
  return f"{type(error).__name__}: {error}"


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
