"""Reads and writes files safely: atomically, with bounds on size, and never through links.

A path may be in a bucket (`core.bucket`), whose objects are never partly there; what is said of
links and partial files is of local ones.

A folder may come from somebody else, with links, pipes and devices under the names that we use. So
only regular files are read, up to a size, and no link in a run's folder is ever followed to write,
create, truncate or delete.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import io
import json
import math
import os
import pathlib
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

Path = str | os.PathLike[str]


def write_atomically(path: Path, data: str | bytes, *, alone: bool = True) -> None:
  """Writes the file so that a crash leaves the old content or the new one.

  Text is UTF-8. Missing parent folders are made. A link at `path` is replaced. `alone` says that no
  other process writes this file, so that a killed one's partial file is removed.
  """
  if bucket.is_bucket(path):
    return bucket.write(path, to_bytes(data) if isinstance(data, str) else data)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Always the same name, so that partial files of killed processes cannot accumulate.
  partial = path.parent / f".{path.name}{'' if alone else f'.{os.getpid()}'}.partial"
  try:
    write_new(partial, data)
    os.replace(partial, path)
  except BaseException as e:
    partial.unlink(missing_ok=True)
    if isinstance(e, OSError) and e.errno:
      e.filename = str(path)  # The error of a full disk names no file.
    raise
  sync(path.parent)


def write_new(path: Path, data: str | bytes) -> None:
  """Replaces whatever has this name by a new file, and waits for the disk."""
  if bucket.is_bucket(path):
    return write_atomically(path, data)
  with open_new(path) as f:
    f.write(to_bytes(data) if isinstance(data, str) else data)
    f.flush()
    os.fsync(f.fileno())


def to_bytes(text: str) -> bytes:
  """The text in UTF-8; bytes of file names that are not UTF-8 as in 'caf%E9.jpg'."""
  try:
    return text.encode()
  except UnicodeEncodeError:
    bytes_of_names = re.sub("[\udc80-\udcff]", lambda c: f"%{ord(c[0]) - 0xDC00:02X}", text)
    return re.sub("[\ud800-\udfff]", "\ufffd", bytes_of_names).encode()


def open_new(path: Path) -> BinaryIO:
  """Replaces whatever has this name by a new empty file, open for writing."""
  remove(path)
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
  return os.fdopen(os.open(path, flags, 0o666), "wb")


def open_own(path: Path, flags: int) -> int:
  """A descriptor to write one of our files in a run's folder; arguments and OSErrors of `os.open`.

  A link, a file with several names and what is no regular file are a WorkdirError, and not touched.
  """
  with contextlib.suppress(FileNotFoundError):
    _refuse(path, os.lstat(path))
  return _opened(path, flags | os.O_NOFOLLOW, _refuse)  # It fails if a link was put there since.


def make_folder(path: Path, *, below: Path) -> None:
  """Makes the folder `path` and those between it and `below`; WorkdirError where one is a link."""
  if bucket.is_bucket(path):
    return  # There are none.
  path, below = pathlib.Path(path), pathlib.Path(below)
  at = below
  for part in path.relative_to(below).parts:
    at = at / part
    if at.is_symlink():
      raise errors.WorkdirError(
        f"{str(at)!r} is a link, and nothing is written through a link in a run's folder. Remove"
        " it; to keep the run on another disk, let the whole workdir be a link."
      )
    at.mkdir(exist_ok=True)


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """All files in a folder and its folders; none where there is no such folder."""
  if bucket.is_bucket(folder):
    return [folder / name for name in bucket.listing(folder)]
  return [path for path in folder.rglob("*") if path.is_file()]


def move(path: Path, target: Path) -> None:
  """Gives a file or folder another name, in place of what has it; in a bucket, by copying."""
  if bucket.is_bucket(path):
    bucket.move(path, target)
  else:
    os.replace(path, target)


def remove(path: Path) -> None:
  """Removes a file, a link itself, or a folder with its content, if it is there."""
  if bucket.is_bucket(path):
    return bucket.remove(path)
  try:
    os.unlink(path)
  except FileNotFoundError:
    pass
  except (IsADirectoryError, PermissionError):  # By system, when it is a folder.
    if not os.path.isdir(path):
      raise
    shutil.rmtree(path)  # It follows no link.


def open_regular(path: Path, *, flags: int = 0) -> io.BufferedReader:
  """A regular file, also through links, open for reading; `flags` are more of `os.open`.

  A pipe, a device, a socket or a folder is not opened: OSError with the reason as `strerror`.
  """
  if bucket.is_bucket(path):
    return bucket.open_read(path)
  _check_regular(path, os.stat(path))
  return os.fdopen(_opened(path, os.O_RDONLY | flags, _check_regular), "rb")


def read(path: Path, *, max_bytes: int) -> bytes:
  """The content of a regular file of at most `max_bytes`; OSError with the reason as `strerror`."""
  if bucket.is_bucket(path):
    return bucket.read(path, max_bytes=max_bytes)
  with open_regular(path) as f:
    num_bytes = os.fstat(f.fileno()).st_size
    if num_bytes > max_bytes:
      what = f"It has {num_bytes} bytes, the limit is {max_bytes}"
      raise OSError(errno.EFBIG, what, str(path))
    return f.read(num_bytes)


def read_start(path: Path, num_bytes: int) -> bytes:
  """The first `num_bytes` of a regular file, fewer where it has fewer."""
  if bucket.is_bucket(path):
    return bucket.read_start(path, num_bytes)
  with open_regular(path) as f:
    return f.read(num_bytes)


def modified(path: Path) -> float:
  """When a file was written, in seconds of its own disk's or bucket's clock."""
  return bucket.modified(path) if bucket.is_bucket(path) else os.stat(path).st_mtime


def size_of(file: BinaryIO) -> int:
  """The bytes of an open file, in a bucket or not; where it is read next does not change."""
  at = file.tell()
  size = file.seek(0, os.SEEK_END)
  file.seek(at)
  return size


def sync(path: Path) -> None:
  """Forces the content of a file, or the names in a folder, to the disk."""
  if bucket.is_bucket(path):
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _opened(path: Path, flags: int, check: Callable[[Path, os.stat_result], None]) -> int:
  """A descriptor of what has this name, which may have changed since an earlier `check`."""
  descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
  try:
    check(path, os.fstat(descriptor))
  except BaseException:
    os.close(descriptor)
    raise
  return descriptor


def _check_regular(path: Path, status: os.stat_result) -> None:
  if stat.S_ISDIR(status.st_mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
  if not stat.S_ISREG(status.st_mode):
    raise OSError(errno.EINVAL, "It is not a regular file", str(path))


def _refuse(path: Path, status: os.stat_result) -> None:
  if stat.S_ISLNK(status.st_mode):
    what = "a link"
  elif not stat.S_ISREG(status.st_mode):
    what = "no regular file"
  elif status.st_nlink > 1:
    what = "a hard link, so it is a file elsewhere too"
  else:
    return
  raise errors.WorkdirError(
    f"{str(path)!r} is {what}; it is never written to. Remove it, or choose another place."
  )


_MAX_BYTES = 1 << 30  # Of a file of lines: millions of steps.
_MAX_LINE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 22


def to_line(record: Mapping[str, Any]) -> bytes:
  """One line of strict JSON; floats that JSON lacks become 'NaN', 'Infinity', '-Infinity'."""
  plain = dict(record)
  for key, value in record.items():
    if isinstance(value, float) and not math.isfinite(value):
      plain[key] = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
  return to_bytes(json.dumps(plain, ensure_ascii=False, allow_nan=False)) + b"\n"


def read_lines(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], int]:
  """The intact lines of a file of JSON objects, and the number of other lines.

  A line is intact when it is a JSON object and ends in a newline. A missing file has no lines; one
  that is not regular, or cannot be read, is a WorkdirError.
  """
  records, num_torn, is_long = [], 0, False
  try:
    with _open_lines(path) as f:
      while piece := f.readline(_MAX_LINE_BYTES):
        is_end = piece.endswith(b"\n")
        if is_end and not is_long:
          try:
            records.append(strict_json.parse_object(piece[:-1]))
          except strict_json.Malformed:
            num_torn += 1
        elif not is_long:  # The last line, or the beginning of one that is too long.
          num_torn += 1
        is_long = not is_end
  except FileNotFoundError:
    return [], 0
  except OSError as e:
    raise errors.WorkdirError(f"Cannot read {str(path)!r}: {strict_json.reason(e)}.") from None
  return records, num_torn


def _open_lines(path: Path) -> BinaryIO:
  if bucket.is_bucket(path):
    return io.BytesIO(bucket.read_growing(path, max_bytes=_MAX_BYTES))
  f = open_regular(path)
  if os.fstat(f.fileno()).st_size > _MAX_BYTES:
    f.close()
    raise OSError(errno.EFBIG, f"It is larger than the limit of {_MAX_BYTES} bytes")
  return f


class LineFile:
  """A file of JSON lines; they are on disk when `append` returns.

  Args:
    path: the file; made when it is missing, WorkdirError when it is a link or no regular file.
    keep: the lines that it starts with; a file with other content is rewritten.
    fault: the name of the fault points around an append.
  """

  def __init__(self, path: str | os.PathLike[str], keep: Iterable[bytes], *, fault: str):
    self.path = bucket.path(path)
    self._fault = fault
    self._descriptor = -1
    start = b"".join(keep)
    self._object = bucket.Lines(path, start) if bucket.is_bucket(path) else None
    if self._object:
      return
    if not _holds(self.path, start):
      write_atomically(self.path, start)
    self._descriptor = open_own(self.path, os.O_WRONLY | os.O_APPEND)

  def append(self, records: Iterable[Mapping[str, Any]]) -> None:
    data = b"".join(to_line(record) for record in records)
    if not data:
      return
    fault_point(f"{self._fault}.before_append")
    if self._object:
      self._object.append(data)
    else:
      self._write(data)
    fault_point(f"{self._fault}.after_append")

  def _write(self, data: bytes) -> None:
    size = os.fstat(self._descriptor).st_size
    try:
      while data:
        data = data[os.write(self._descriptor, data) :]
    except OSError:
      os.ftruncate(self._descriptor, size)  # So that a full disk leaves no partial line.
      raise
    os.fsync(self._descriptor)

  def close(self) -> None:
    if self._object:
      self._object.close()
    if self._descriptor >= 0:
      os.close(self._descriptor)
      self._descriptor = -1


def _holds(path: pathlib.Path, content: bytes) -> bool:
  """Whether there is such a file that `open_own` accepts, with exactly this content."""
  try:
    os.close(open_own(path, os.O_WRONLY))
    with open_regular(path) as f:
      pieces = (content[i : i + _PIECE_BYTES] for i in range(0, len(content), _PIECE_BYTES))
      return all(f.read(len(piece)) == piece for piece in pieces) and not f.read(1)
  except (FileNotFoundError, errors.WorkdirError):
    return False


POINTS = (
    "state.before_arrays", "state.after_arrays", "state.after_seal", "state.after_rename",
    "state.before_delete", "state.after_delete", "base.after_seal", "base.after_rename",
    "metrics.before_append", "metrics.after_append", "bad_rows.before_append",
    "bad_rows.after_append",
)  # fmt: skip

_visits: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
  """A place where tests let the process fail, with PJ_FAULT=NAME[:ACTION[@VISIT]]."""
  target, _, rest = os.environ.get("PJ_FAULT", "").partition(":")
  if target != name:
    return
  action, _, visit = rest.partition("@")
  _visits[name] += 1
  if _visits[name] == int(visit or 1):
    errors.pick(_ACTIONS, action or "exit", "action in PJ_FAULT")(name)


def _enospc(name):
  raise OSError(errno.ENOSPC, f"no space left on device (injected at {name})")


_ACTIONS = {
  "exit": lambda name: os._exit(9),
  "sleep": lambda name: time.sleep(3600),
  "enospc": _enospc,
  "sigterm": lambda name: os.kill(os.getpid(), signal.SIGTERM),
  "sigint": lambda name: os.kill(os.getpid(), signal.SIGINT),
}
