"""Files that data names: opened only under a root, only regular ones, only up to a size.

A path in a data set is not trusted. It is resolved, must stay under the root that the config gives,
and is checked before it is opened: opening a fifo hangs, opening a device reads for ever. `Rows` is
the base of the rows of our sources.
"""

from __future__ import annotations

import array
import codecs
import errno
import functools
import io
import os
import pathlib
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

MAX_IMAGE_BYTES = 64 << 20
MAX_ROW_BYTES = 96 << 20  # Of all files of a row.
MAX_ROW_FILES = 1000

_MAX_DEPTH = 16
_NOT_OURS = ("__MACOSX",)  # Folders that archives bring along.
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # Of Windows.


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
  if not bucket.is_bucket(path):
    return False
  bucket.kind(path)
  return True


def folder(path: str, file: str) -> str:
  """The folder that a config names, '' for that of a file; an unread scheme is a ConfigError."""
  path = path or os.path.dirname(file) or "."
  is_remote(path)
  return path


def open_data(path: str) -> BinaryIO:
  """The regular file that a config names, local, gs:// or s3://; ConfigError without one."""
  try:
    if is_remote(path):
      return bucket.open_read(path)
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

  DataError where the name leads out of the root (by '..', as an absolute path or by a symlink), or
  the file is not regular or larger than `max_bytes`; it is then not opened.
  """
  with open_under(root, name, max_bytes=max_bytes) as f:
    data = f.read(max_bytes + 1)
  if len(data) > max_bytes:
    raise errors.DataError(f"file {name!r} grew over the limit of {max_bytes} bytes.")
  return data


def read_all_under(root: str, names: Sequence[Any]) -> list[bytes]:
  """The contents of the files that a row calls `names`; a repeated one is read once.

  DataError as `read_under`, and of more than MAX_ROW_FILES files or MAX_ROW_BYTES bytes.
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
    _, path = _remote(root, name)
    try:
      return io.BytesIO(bucket.read(path, max_bytes=max_bytes))
    except FileNotFoundError:
      raise errors.DataError(f"file {path!r} does not exist.") from None
    except OSError as e:
      if e.errno == errno.EFBIG:
        raise errors.DataError(f"file {path!r} is over the limit of {max_bytes} bytes.") from None
      raise  # Of the store, not of the row.
  path = _real_path(root, name)
  if not os.path.lexists(path):
    found = same(root, name)
    if found is None:
      beside = by_stem(root, os.path.splitext(name)[0])[:3]
      hint = f" There is {', '.join(map(repr, beside))}." if beside else ""
      raise errors.DataError(f"file {name!r} is not in {root!r}.{hint}")
    path = _real_path(root, found)
  try:
    size = os.path.getsize(path)
    if size > max_bytes:
      raise errors.DataError(f"file {name!r} has {size} bytes, the limit is {max_bytes}.")
    # The path may have been replaced since it was resolved: a link is not followed.
    return atomic_io.open_regular(path, flags=os.O_NOFOLLOW)
  except FileNotFoundError:
    raise errors.DataError(f"file {name!r} is not in {root!r}.") from None
  except OSError as e:
    raise errors.DataError(f"file {name!r} cannot be read: {e.strerror}.") from None


def listed_under(root: str, name: Any) -> list[str]:
  """The non-blank lines of a file of paths, with '/' for a backslash; they need not be UTF-8."""
  data = read_under(root, name).removeprefix(codecs.BOM_UTF8)
  lines = data.decode("utf-8", "surrogateescape").split("\n")
  return [line.strip().replace("\\", "/") for line in lines if line.strip()]


def paths_under(root: str, name: Any) -> tuple[str, list[str]] | None:
  """(path below `root`, paths of all files below that) of the folder that is called `name`.

  In natural order, without hidden files. None where there is no such folder; the path is '' for
  `root` itself. DataError where a link leads out of `root`, or folders nest too deeply.
  """
  name = _checked_name(root, name)
  if is_remote(root):
    fs, path = _remote(root, name)
    if not fs.isdir(path):
      return None
    bare = path.partition("://")[2].rstrip("/")
    found = [n.partition("://")[2] or n for n in fs.find(path)]
    return name, sorted((n.removeprefix(f"{bare}/") for n in found), key=order)
  _real_path(root, name)
  there = same(root, name)
  top = os.path.join(root, os.path.normpath(there or "."))
  if there is None or not os.path.isdir(top):
    return None

  def fail(error: OSError) -> None:
    raise error

  def shown(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(".") and name not in _NOT_OURS]

  real_root, found, seen = os.path.realpath(root), [], set()
  for folder, inside, names in os.walk(top, onerror=fail, followlinks=True):
    path, real = os.path.relpath(folder, top), os.path.realpath(folder)
    if os.path.commonpath([real_root, real]) != real_root:
      raise errors.DataError(f"folder {path!r} of {name!r} leads out through a symlink.")
    if path.count("/") >= _MAX_DEPTH:
      raise errors.DataError(f"folder {path!r} of {name!r}: nested deeper than {_MAX_DEPTH}.")
    if real in seen:  # A link to a folder above it.
      inside.clear()
      continue
    seen.add(real)
    inside[:] = shown(inside)
    found += [os.path.normpath(os.path.join(path, n)) for n in shown(names)]
  there = os.path.normpath(there)
  return "" if there == "." else there, sorted(found, key=order)


def find_under(root: str, name: str) -> str | None:
  """The path below `root` of the file `name`, see `same`; None without one. It is not opened."""
  if ".." in name.replace("\\", "/").split("/") or "\0" in name:
    return None
  if is_remote(root):
    fs, path = _remote(root, name)
    return name if fs.exists(path) else None
  return same(root, name)


def _remote(root: str, name: str) -> tuple[Any, str]:
  """The file system and the address of `name` in a bucket."""
  return bucket.file_system(root), f"{root.rstrip('/')}/{name}"


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


def row_digests(rows: Iterable[bytes]) -> array.array:
  """uint16[rows], of the text that each row is made from."""
  return array.array("H", (zlib.crc32(row) & 0xFFFF for row in rows))


def same(root: str, name: str) -> str | None:
  """The path below the local folder `root` of `name`, whatever its case; None without one.

  DataError where several paths differ from it in case alone.
  """
  if os.path.lexists(os.path.join(root, name)):
    return name
  found: list[str] = []
  for part in name.replace("\\", "/").split("/"):
    if part in ("", "."):
      continue
    folder = os.path.join(root, *found)
    if not os.path.lexists(os.path.join(folder, part)):
      stem = key(os.path.splitext(part)[0])
      alike = [n for n in _names(folder).get(stem, ()) if key(n) == key(part)]
      if len(alike) > 1:
        raise errors.DataError(
          f"file {name!r}: which of {', '.join(map(repr, alike))} is meant? None matches exactly."
        )
      if not alike:
        return None
      part = alike[0]
    found.append(part)
  return "/".join(found)


def by_stem(root: str, name: str, endings: Sequence[str] = ()) -> list[str]:
  """The paths below `root` that are `name` plus one of the endings, or plus any."""
  above, _, stem = name.replace("\\", "/").rpartition("/")
  folder = same(root, above) if above else ""
  names = _names(os.path.join(root, folder)).get(key(stem), ()) if folder is not None else ()
  found = [n for n in names if not endings or os.path.splitext(n)[1].lower() in endings]
  return [f"{folder}/{n}" if folder else n for n in found]


def order(path: str) -> tuple[list[tuple[list[tuple[int, str]], str]], str]:
  """The key of natural order: folder by folder, numbers by value: 'f2.jpg' before 'f10.jpg'."""
  parts = []
  for name in path.split("/"):
    pieces = re.split(r"([0-9]+)", name)
    by_number = [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(pieces)]
    parts.append((by_number, name))  # The name itself decides between 'f1' and 'f01'.
  return parts, path


def key(name: str) -> str:
  """Equal for names that differ in case or Unicode normalization alone."""
  if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
    # Bytes that are not UTF-8: most likely cp1252 of Windows.
    name = os.fsencode(name).decode("cp1252", "replace")
  return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _names(folder: str) -> Mapping[str, list[str]]:
  """{key of a name without its ending: names} of a folder's content; {} without a folder."""
  try:
    return _listed(folder, os.stat(folder).st_mtime_ns)
  except OSError:
    return {}


@functools.lru_cache(maxsize=64)
def _listed(folder: str, mtime_ns: int) -> Mapping[str, list[str]]:
  del mtime_ns  # A changed folder is listed again.
  found: dict[str, list[str]] = {}
  for name in sorted(os.listdir(folder)):
    found.setdefault(key(os.path.splitext(name)[0]), []).append(name)
  return found
