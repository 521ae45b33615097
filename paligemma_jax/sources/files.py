"""Files that data names: opened only under a root, only regular ones, only up to a size.

A path in a data set is not trusted. It is resolved, must stay under the root that the config gives,
and is checked before it is opened: opening a fifo hangs, opening a device reads for ever. `Rows` is
the base of the rows of our sources.
"""

from __future__ import annotations

import array
import codecs
import functools
import io
import os
import pathlib
import re
import stat
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

MAX_IMAGE_BYTES = 64 << 20
MAX_ROW_BYTES = 96 << 20  # Of all files of a row.
MAX_ROW_FILES = 1000

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # Of Windows.
_PIP_PACKAGE = {"gs": "gcsfs", "s3": "s3fs"}


class Rows:
  """Rows by index, whose errors name the row; subclasses add `__len__`, `where` and `_row`."""

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    try:
      return self._row(i)
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: {e}") from None

  if TYPE_CHECKING:

    def __len__(self) -> int: ...

    def where(self, i: int) -> str: ...

    def _row(self, i: int) -> dict[str, Any]: ...


def is_remote(path: str) -> bool:
  """True for gs:// and s3:// addresses; other schemes are a ConfigError."""
  scheme, separator, _ = path.partition("://")
  if not separator:
    return False
  if scheme not in _PIP_PACKAGE:
    raise errors.ConfigError(
      f"{path!r}: data is read from local paths, gs:// and s3://; download it first."
    )
  return True


def file_system(path: str) -> Any:
  """The fsspec file system of a gs:// or s3:// address."""
  package = _PIP_PACKAGE[path.partition("://")[0]]
  try:
    import fsspec  # Optional: only data in a bucket needs it.

    return fsspec.filesystem(path.partition("://")[0])
  except ImportError as e:
    raise errors.ConfigError(
      f"Reading {path!r} needs fsspec and {package}: pip install fsspec {package}."
    ) from e


def open_data(path: str) -> BinaryIO:
  """The regular file that a config names, local, gs:// or s3://; ConfigError without one."""
  try:
    if is_remote(path):
      return file_system(path).open(path, "rb")
    return atomic_io.open_regular(path)
  except OSError as e:
    raise errors.ConfigError(f"Cannot read {path!r}: {e.strerror or e}.") from None


def read_data(path: str, *, max_bytes: int) -> bytes:
  """The content of the file that a config names; ConfigError of an unreadable or larger one."""
  try:
    if not is_remote(path):  # Its size is known: a limit of gigabytes allocates none.
      return atomic_io.read(path, max_bytes=max_bytes)
    with open_data(path) as f:
      data = f.read(max_bytes + 1)
  except OSError as e:
    raise errors.ConfigError(f"Cannot read {path!r}: {e.strerror or e}.") from None
  if len(data) > max_bytes:
    raise errors.ConfigError(f"{path!r} has more than {max_bytes} bytes.")
  return data


def read_json(path: pathlib.Path, *, max_depth: int = strict_json.MAX_DEPTH) -> dict[str, Any]:
  """The JSON object in a local file; ConfigError without one."""
  try:
    return strict_json.read_object(path, max_depth=max_depth)
  except (OSError, strict_json.Malformed) as e:
    raise errors.ConfigError(f"Cannot read {str(path)!r}: {strict_json.reason(e)}.") from None


def read_under(root: str, name: Any, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
  """The content of the file that a row calls `name`, a path relative to `root`.

  Raises:
    DataError: the name leads out of the root (by '..', as an absolute path or by a symlink), or the
      file is not regular or larger than `max_bytes`; it is then not opened.
  """
  with open_under(root, name, max_bytes=max_bytes) as f:
    data = f.read(max_bytes + 1)
  if len(data) > max_bytes:
    raise errors.DataError(f"file {name!r} grew over the limit of {max_bytes} bytes.")
  return data


def read_all_under(root: str, names: Sequence[Any]) -> list[bytes]:
  """The contents of the files that a row calls `names`; a repeated one is read once.

  Raises:
    DataError: as `read_under`; or more than MAX_ROW_FILES files or MAX_ROW_BYTES bytes.
  """
  if len(names) > MAX_ROW_FILES:
    raise errors.DataError(f"the row names {len(names)} files; the limit is {MAX_ROW_FILES}.")
  found: dict[Any, bytes] = {}
  left = MAX_ROW_BYTES
  for name in names:
    if not isinstance(name, str) or name not in found:
      data = read_under(root, name)
      found[name] = data
      left -= len(data)
      if left < 0:
        raise errors.DataError(f"the row's files have more than {MAX_ROW_BYTES} bytes in all.")
  return [found[name] for name in names]


def open_under(root: str, name: Any, *, max_bytes: int) -> BinaryIO:
  """The file that a row calls `name`, opened for reading; see `read_under` and `same`."""
  name = _checked_name(root, name)
  if is_remote(root):
    return io.BytesIO(_read_remote(f"{root.rstrip('/')}/{name}", max_bytes))
  path = _real_path(root, name)
  if not os.path.lexists(path):
    path = _real_path(root, _same(root, name))
  try:
    _check_status(os.stat(path, follow_symlinks=False), name, max_bytes)
    # NONBLOCK and NOFOLLOW: the path may have been replaced since the check.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
  except FileNotFoundError:
    raise errors.DataError(f"file {name!r} is not in {root!r}.") from None
  except OSError as e:
    raise errors.DataError(f"file {name!r} cannot be read: {e.strerror}.") from None
  file = os.fdopen(fd, "rb")
  try:
    _check_status(os.fstat(fd), name, max_bytes)
  except errors.DataError:
    file.close()
    raise
  return file


def listed_under(root: str, name: Any) -> list[str]:
  """The non-blank lines of a file of paths, with '/' for a backslash; they need not be UTF-8."""
  data = read_under(root, name).removeprefix(codecs.BOM_UTF8)
  lines = data.decode("utf-8", "surrogateescape").split("\n")
  return [line.strip().replace("\\", "/") for line in lines if line.strip()]


def names_under(root: str, name: Any) -> list[str] | None:
  """The content, in natural order, of the folder that a row calls `name`; None of no folder.

  Raises:
    DataError: as `read_under`.
  """
  name = _checked_name(root, name)
  if is_remote(root):
    fs, path = file_system(root), f"{root.rstrip('/')}/{name}"
    if not fs.isdir(path):
      return None
    found = [n.rstrip("/").rpartition("/")[2] for n in fs.ls(path, detail=False)]
  else:
    path = _real_path(root, name)
    if not os.path.isdir(path):
      return None
    found = os.listdir(path)
  return sorted(found, key=order)


def paths_under(root: str, name: Any) -> tuple[str, list[str]] | None:
  """(path below `root`, paths of all files below that) of the folder that is called `name`.

  None where there is no such folder; the path is '' for `root` itself. DataError as `read_under`.
  """
  name = _checked_name(root, name)
  if is_remote(root):
    fs, path = file_system(root), f"{root.rstrip('/')}/{name}".rstrip("/")
    if not fs.isdir(path):
      return None
    bare = path.partition("://")[2]
    found = [n.partition("://")[2] or n for n in fs.find(path)]
    return name, sorted((n.removeprefix(f"{bare}/") for n in found), key=order)
  _real_path(root, name)
  there = same(root, name)
  if there is None:
    return None
  there = os.path.normpath(there)
  inside = below(root, there)
  return None if inside is None else ("" if there == "." else there, inside)


def find_under(root: str, name: str) -> str | None:
  """The path below `root` of the file `name`, see `same`; None without one. It is not opened."""
  if ".." in name.replace("\\", "/").split("/") or "\0" in name:
    return None
  if is_remote(root):
    return name if file_system(root).exists(f"{root.rstrip('/')}/{name}") else None
  return same(root, name)


def _same(root: str, name: str) -> str:
  """As `same`; DataError without such a file, with those that have another ending."""
  found = same(root, name)
  if found is None:
    beside = near(root, name)[:3]
    hint = f" There is {', '.join(map(repr, beside))}." if beside else ""
    raise errors.DataError(f"file {name!r} is not in {root!r}.{hint}")
  return found


def _real_path(root: str, name: str) -> str:
  real_root = os.path.realpath(root)
  path = os.path.realpath(os.path.join(real_root, name))
  if os.path.commonpath([real_root, path]) != real_root:
    raise errors.DataError(f"file {name!r} leads out of {root!r} through a symlink.")
  return path


def _checked_name(root: str, name: Any) -> str:
  if not isinstance(name, str) or not name:
    raise errors.DataError(f"expected the path of a file, found {name!r}.")
  if "\0" in name:
    raise errors.DataError(f"file {name!r}: the path holds a NUL.")
  if "://" in name:
    inside = f"{root.rstrip('/')}/"
    if not (is_remote(root) and name.startswith(inside)):
      raise errors.DataError(
        f"file {name!r}: a row names files relative to {root!r}, no addresses."
      )
    name = name.removeprefix(inside)
  if os.path.isabs(name) or _DRIVE.match(name) or ".." in name.replace("\\", "/").split("/"):
    raise errors.DataError(f"file {name!r}: the path must be relative to {root!r}, without '..'.")
  try:
    os.fsencode(name)
  except UnicodeEncodeError:
    raise errors.DataError(f"file {name!r}: the path cannot be encoded.") from None
  return name


def _check_status(status: os.stat_result, name: str, max_bytes: int) -> None:
  if not stat.S_ISREG(status.st_mode):
    raise errors.DataError(f"file {name!r} is not a regular file.")
  if status.st_size > max_bytes:
    raise errors.DataError(f"file {name!r} has {status.st_size} bytes, the limit is {max_bytes}.")


def _read_remote(path: str, max_bytes: int) -> bytes:
  try:
    with file_system(path).open(path, "rb") as f:
      data = f.read(max_bytes + 1)
  except FileNotFoundError:
    raise errors.DataError(f"file {path!r} does not exist.") from None
  if len(data) > max_bytes:
    raise errors.DataError(f"file {path!r} is over the limit of {max_bytes} bytes.")
  return data


def row_digests(rows: Iterable[bytes]) -> array.array:
  """uint16[rows], of the text that each row is made from."""
  return array.array("H", (zlib.crc32(row) & 0xFFFF for row in rows))


_MAX_DEPTH = 16
_NOT_OURS = ("__MACOSX",)  # Folders that archives bring along.


def same(root: str, name: str) -> str | None:
  """The path below the local folder `root` of `name`, whatever its case; None without one.

  Raises:
    DataError: several paths differ from it in case alone.
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
          f"file {name!r}: which of {', '.join(map(repr, alike))} is meant? None matches exactly."
        )
      if not alike:
        return None
      (part,) = alike
    found.append(part)
  return "/".join(found)


def by_stem(root: str, name: str, endings: Sequence[str]) -> list[str]:
  """The paths below `root` that are `name` plus one of the endings."""
  above, _, stem = name.replace("\\", "/").rpartition("/")
  folder = same(root, above) if above else ""
  if folder is None:
    return []
  keys = [key(stem + ending) for ending in endings]
  names = _names(os.path.join(root, folder))
  return sorted(f"{folder}/{n}" if folder else n for k in keys for n in names.get(k, ()))


def near(root: str, name: str) -> list[str]:
  """Files in the folder of `name` that differ from it in their ending alone."""
  above, _, last = name.replace("\\", "/").rpartition("/")
  stem = key(os.path.splitext(last)[0])
  names = _names(os.path.join(root, above))
  return sorted(n for k, alike in names.items() if os.path.splitext(k)[0] == stem for n in alike)


def below(root: str, name: str) -> list[str] | None:
  """The paths of all files below a local folder, in natural order; None of no folder.

  Hidden files are left out. DataError: a link leads out of `root`, or folders nest too deeply.
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
        try:
          is_folder = entry.is_dir()
        except OSError:  # A link to itself: reading it as a file fails.
          is_folder = False
        if is_folder:
          todo.append((path, depth + 1))
        else:
          found.append(path)
  return sorted(found, key=order)


def order(path: str) -> tuple[list[tuple[list[tuple[int, str]], str]], str]:
  """The key of natural order: folder by folder, numbers by value: 'f2.jpg' before 'f10.jpg'."""
  return [_by_number(part) for part in path.split("/")], path


def key(name: str) -> str:
  """Equal for names that differ in case or Unicode normalization alone."""
  if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
    # Bytes that are not UTF-8: most likely cp1252 of Windows.
    name = os.fsencode(name).decode("cp1252", "replace")
  return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _by_number(name: str) -> tuple[list[tuple[int, str]], str]:
  """Digits by value, then the rest; the name itself decides between 'f1' and 'f01'."""
  pieces = re.split(r"([0-9]+)", name)
  return [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(pieces)], name


def _names(folder: str) -> Mapping[str, tuple[str, ...]]:
  """{key: names} of a folder's content; {} without a folder."""
  try:
    return _listed(folder, os.stat(folder).st_mtime_ns)
  except OSError:
    return {}


@functools.lru_cache(maxsize=64)
def _listed(folder: str, mtime_ns: int) -> Mapping[str, tuple[str, ...]]:
  del mtime_ns  # A changed folder is listed again.
  found: dict[str, list[str]] = {}
  for name in sorted(os.listdir(folder)):
    found.setdefault(key(name), []).append(name)
  return {k: tuple(names) for k, names in found.items()}
