"""Files that data names: opened only under a root, only regular ones, only up to a size.

A path in a data set is somebody else's text. It is resolved, must stay under the root the config
gives, and is looked at before it is opened: opening a fifo hangs, opening a device reads for ever.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from typing import Any
from typing import BinaryIO

from paligemma_jax.core import errors
from paligemma_jax.sources import finding

MAX_IMAGE_BYTES = 64 << 20
MAX_ROW_BYTES = 96 << 20  # Of all files of a row.
MAX_ROW_FILES = 1000

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # Of Windows.
_PIP_PACKAGE = {"gs": "gcsfs", "s3": "s3fs"}


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


def read_under(root: str, name: Any, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
  """The content of the file that a row calls `name`, a path relative to `root`.

  Raises:
    DataError: the name leads out of the root (by '..', as an absolute path or by a symlink), is
      not a regular file or larger than `max_bytes`. The file is then not opened.
  """
  with open_under(root, name, max_bytes=max_bytes) as f:
    data = f.read(max_bytes + 1)
  if len(data) > max_bytes:
    raise errors.DataError(f"file {name!r} grew over the limit of {max_bytes} bytes.")
  return data


def read_all_under(root: str, names: Sequence[Any]) -> list[bytes]:
  """The contents of the files that a row calls `names`; one that is named again is read once.

  Raises:
    DataError: as `read_under`; or the row has more files or bytes than any example needs.
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
  """The file that a row calls `name`, opened for reading; see `read_under` and `finding`."""
  name = _checked_name(root, name)
  if is_remote(root):
    return io.BytesIO(_read_remote(f"{root.rstrip('/')}/{name}", max_bytes))
  path = _real_path(root, name)
  if not os.path.lexists(path):
    path = _real_path(root, _same(root, name))
  try:
    _check_status(os.stat(path, follow_symlinks=False), name, max_bytes)
    # NONBLOCK and NOFOLLOW: the path may have been replaced since it was looked at.
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


def names_under(root: str, name: Any) -> list[str] | None:
  """What is in the folder that a row calls `name`, a path relative to `root`; None of a file.

  In the order of people: numbers in names count as numbers, so 'f2.jpg' comes before 'f10.jpg'.

  Raises:
    DataError: as `read_under`; that there is nothing of that name is left for it to say.
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
  return sorted(found, key=finding.order)


def paths_under(root: str, name: Any) -> tuple[str, list[str]] | None:
  """The folder that a config or a row calls `name`, and all files in it and in its folders.

  Returns:
    its path below `root` ('' is `root`) and the files' paths below it; None of what is no folder.

  Raises:
    DataError: as `read_under`.
  """
  name = _checked_name(root, name)
  if is_remote(root):
    fs, path = file_system(root), f"{root.rstrip('/')}/{name}".rstrip("/")
    if not fs.isdir(path):
      return None
    bare = path.partition("://")[2]
    found = [n.partition("://")[2] or n for n in fs.find(path)]
    return name, sorted((n.removeprefix(f"{bare}/") for n in found), key=finding.order)
  _real_path(root, name)
  there = finding.same(root, name)
  if there is None:
    return None
  there = os.path.normpath(there)
  inside = finding.below(root, there)
  return None if inside is None else ("" if there == "." else there, inside)


def find_under(root: str, name: str) -> str | None:
  """The path below `root` of the file that is meant by `name`; None where there is none.

  It is not opened, and may yet be refused: see `read_under`.
  """
  if ".." in name.replace("\\", "/").split("/") or "\0" in name:
    return None
  if is_remote(root):
    return name if file_system(root).exists(f"{root.rstrip('/')}/{name}") else None
  return finding.same(root, name)


def _same(root: str, name: str) -> str:
  """As `find_under` in a local root.

  Raises:
    DataError: there is none; names those that differ in the ending alone.
  """
  found = finding.same(root, name)
  if found is None:
    beside = finding.near(root, name)[:3]
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
    raise errors.DataError(
        f"file {name!r} has {status.st_size} bytes, the limit is {max_bytes}."
    )


def _read_remote(path: str, max_bytes: int) -> bytes:
  try:
    with file_system(path).open(path, "rb") as f:
      data = f.read(max_bytes + 1)
  except FileNotFoundError:
    raise errors.DataError(f"file {path!r} does not exist.") from None
  if len(data) > max_bytes:
    raise errors.DataError(f"file {path!r} is over the limit of {max_bytes} bytes.")
  return data
