"""Files by names that another system wrote: '\\' for '/', letters of another case, other Unicode.

A name is looked for as it is first. Only when nothing has it, the folder is listed, and a name that
is the same but for these counts if it is the only one.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Mapping
from collections.abc import Sequence

from paligemma_jax.core import errors

_MAX_DEPTH = 16
_NOT_OURS = ("__MACOSX",)  # Folders that archives bring along.


def same(root: str, name: str) -> str | None:
  """The path below the local folder `root` of what `name` means; None where there is none.

  Raises:
    DataError: several names differ from it in the case of letters alone.
  """
  if os.path.lexists(os.path.join(root, name)):
    return name
  found: list[str] = []
  for part in name.replace("\\", "/").split("/"):
    if part in ("", "."):
      continue
    folder = os.path.join(root, *found)
    if not os.path.lexists(os.path.join(folder, part)):
      alike = _names(folder).get(key(part), ())
      if len(alike) > 1:
        raise errors.DataError(
            f"file {name!r}: which of {', '.join(map(repr, alike))} is meant? None is spelt so."
        )
      if not alike:
        return None
      (part,) = alike
    found.append(part)
  return "/".join(found)


def by_stem(root: str, name: str, endings: Sequence[str]) -> list[str]:
  """The paths below `root` that are `name`, which has no ending, with one of the endings."""
  above, _, stem = name.replace("\\", "/").rpartition("/")
  folder = same(root, above) if above else ""
  if folder is None:
    return []
  keys = [key(stem + ending) for ending in endings]
  names = _names(os.path.join(root, folder))
  return sorted(f"{folder}/{n}" if folder else n for k in keys for n in names.get(k, ()))


def near(root: str, name: str) -> list[str]:
  """Files beside `name` that differ from it in their ending alone."""
  above, _, last = name.replace("\\", "/").rpartition("/")
  stem = key(os.path.splitext(last)[0])
  names = _names(os.path.join(root, above))
  return sorted(n for k, alike in names.items() if os.path.splitext(k)[0] == stem for n in alike)


def below(root: str, name: str) -> list[str] | None:
  """All files in a local folder and in the folders in it, as paths below it; None of no folder.

  In the order of people (see `order`). Hidden files are left out.

  Raises:
    DataError: a folder in it is a link that leads out of `root`, or too deep a nest.
  """
  top = os.path.join(root, name)
  if not os.path.isdir(top):
    return None
  real_root = os.path.realpath(root)
  found, seen, todo = [], set(), [("", 0)]
  while todo:
    folder, depth = todo.pop()
    real = os.path.realpath(os.path.join(top, folder))
    if os.path.commonpath([real_root, real]) != real_root:
      raise errors.DataError(f"folder {folder!r} of {name!r} leads out through a symlink.")
    if depth > _MAX_DEPTH:
      raise errors.DataError(f"folder {folder!r} of {name!r}: nested deeper than {_MAX_DEPTH}.")
    if real in seen:  # A link to a folder above it.
      continue
    seen.add(real)
    with os.scandir(os.path.join(top, folder)) as entries:
      for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name.startswith(".") or entry.name in _NOT_OURS:
          continue
        if entry.is_dir():
          todo.append((path, depth + 1))
        else:
          found.append(path)
  return sorted(found, key=order)


def order(path: str) -> tuple[list[tuple[list[tuple[int, str]], str]], str]:
  """The order of people: folder by folder, numbers in names as numbers: 'f2.jpg', 'f10.jpg'."""
  return [_by_number(part) for part in path.split("/")], path


def key(name: str) -> str:
  """Equal for names that are the same on another system."""
  if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
    # Bytes that are no UTF-8: most likely of an old Windows.
    name = os.fsencode(name).decode("cp1252", "replace")
  return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _by_number(name: str) -> tuple[list[tuple[int, str]], str]:
  """Digits by their value, then the rest; the name itself decides between 'f1' and 'f01'."""
  pieces = re.split(r"([0-9]+)", name)
  return [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(pieces)], name


def _names(folder: str) -> Mapping[str, tuple[str, ...]]:
  """{key: names} of what is in a folder; {} where there is none."""
  try:
    return _listed(folder, os.stat(folder).st_mtime_ns)
  except OSError:
    return {}


@functools.lru_cache(maxsize=64)
def _listed(folder: str, mtime_ns: int) -> Mapping[str, tuple[str, ...]]:
  del mtime_ns  # A folder that has changed is listed anew.
  found: dict[str, list[str]] = {}
  for name in sorted(os.listdir(folder)):
    found.setdefault(key(name), []).append(name)
  return {k: tuple(names) for k, names in found.items()}
