"""Objects of a bucket (gs://, s3://): whole writes, preconditions, checksums.

An object appears whole or not at all, listings are consistent, nothing is renamed or appended to.
Paths are `etils.epath` paths, requests go through gcsfs or s3fs, which try again for about a minute
where the store is busy (429, 5xx) or the connection breaks. Everything that fails raises an OSError
whose `strerror` says why, as a local file's would.

Sources: preconditions, https://cloud.google.com/storage/docs/request-preconditions and
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import importlib.util
import io
import logging
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, cast

from paligemma_jax.core import errors

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_BLOCK_BYTES = 16 << 20  # Of a file that is read from start to end by small reads.
_PIECE_BYTES = 8 << 20  # Of what one request fetches of a larger read.
_PREFIX = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def is_bucket(path: Any) -> bool:
  """Whether the path, of any type, names something in a bucket."""
  return bool(_PREFIX.match(os.fspath(path)))


def path(text: str | os.PathLike[str]) -> pathlib.Path:
  """The `epath.Path` of 'gs://bucket/…' or 's3://bucket/…'; of all else the `pathlib.Path`.

  Raises:
    ConfigError: another kind of store, no name of a bucket, or the client's package is missing.
  """
  text = os.fspath(text)
  if not is_bucket(text):
    return pathlib.Path(text)
  file_system(text)
  from etils import epath

  return cast(pathlib.Path, epath.Path(text.rstrip("/")))  # It has its methods.


def kind(path: str | os.PathLike[str]) -> str:
  """'gs' or 's3'; ConfigError for another kind of store."""
  found = os.fspath(path).partition("://")[0].lower()
  if found not in _PACKAGES:
    known = " and ".join(f"{name}://" for name in _PACKAGES)
    raise errors.ConfigError(
      f"{os.fspath(path)!r}: paths are local, {known}; copy it to one of these first."
    )
  return found


def file_system(path: str | os.PathLike[str]) -> Any:
  """The client, an fsspec file system, of a path's store; ConfigError as of `path`."""
  text, store = os.fspath(path), kind(path)
  if not re.match(r"[a-z0-9][a-z0-9._-]{2,}(/|$)", text.partition("://")[2]):
    raise errors.ConfigError(f"{text!r} has no name of a bucket: {store}://BUCKET/FOLDER.")
  if importlib.util.find_spec(_PACKAGES[store]) is None:
    raise errors.ConfigError(
      f"{text!r} is in a bucket, which needs the package {_PACKAGES[store]}: pip install"
      f" 'paligemma-jax[{store}]'."
    )
  # What it logs with a traceback it raises as well, and we report that.
  logging.getLogger(_PACKAGES[store]).setLevel(logging.CRITICAL)
  # Google's client would ask a service of its own about every bucket first.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  import fsspec

  # Others write there too: a listing is asked for when it is needed. It holds for epath as well.
  name = {"gs": "gcs"}.get(store, store)
  fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
  return fsspec.filesystem(name)


def place(text: str | os.PathLike[str]) -> pathlib.Path:
  """The `path` of a folder of outputs: absolute where it is on this machine."""
  return path(text) if is_bucket(text) else pathlib.Path(text).expanduser().absolute()


@dataclasses.dataclass(frozen=True)
class Stat:
  """What the store says of an object, without reading it.

  Attributes:
    size: bytes.
    checksum: of its content, by the store: 'md5:BASE64', or else 'crc32c:…' or 'etag:…'. Files of
      arrays end in their own CRC-32C, which makes that of the whole file always the same.
    version: changes with every write.
  """

  size: int
  checksum: str
  version: str


def read(path: Any, *, max_bytes: int) -> bytes:
  """The content of an object of at most `max_bytes`."""
  size = stat(path).size
  if size > max_bytes:
    what = f"It has {size} bytes, the limit is {max_bytes}"
    raise OSError(errno.EFBIG, what, str(path))
  with _explained(path):
    return file_system(path).cat_file(os.fspath(path))


def read_start(path: Any, num_bytes: int) -> bytes:
  """The first `num_bytes` of an object, fewer where it has fewer, in one request."""
  with _explained(path):
    return file_system(path).cat_file(os.fspath(path), start=0, end=num_bytes)


def open_read(path: Any) -> io.BufferedReader:
  """The object as a file that can be read and sought; parts are fetched as they are needed."""
  return io.BufferedReader(_Object(path), 1 << 20)


class _Object(io.RawIOBase):
  """An object as a raw file; what fails while it is read is an OSError too.

  A read that goes on where the last one ended fetches a block more, one elsewhere only what it
  needs. Large reads are fetched in pieces at the same time: one connection gives a part of what a
  machine's network could.
  """

  def __init__(self, path: Any):
    self._path, self._size = path, stat(path).size
    self._at, self._ended = 0, -1  # Here, and where the last read ended.
    self._begin, self._ahead = 0, b""  # What was fetched beyond.

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    wanted = min(len(buffer), self._size - self._at)
    offset = self._at - self._begin
    if not 0 <= offset < len(self._ahead) and wanted > 0:
      more = _BLOCK_BYTES if self._at == self._ended and wanted < _BLOCK_BYTES else wanted
      end = min(self._size, self._at + more)
      self._begin, self._ahead, offset = self._at, self._fetch(self._at, end), 0
    found = memoryview(self._ahead)[offset : offset + max(0, wanted)]
    buffer[: len(found)] = found
    self._at = self._ended = self._at + len(found)
    return len(found)

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    at = offset + {os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence, 0)
    if at < 0:
      raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(self._path))
    self._at = at
    return at

  def tell(self) -> int:
    return self._at

  def _fetch(self, begin: int, end: int) -> bytes:
    starts = list(range(begin, end, _PIECE_BYTES))
    ends = [min(start + _PIECE_BYTES, end) for start in starts]
    with _explained(self._path):
      names = [os.fspath(self._path)] * len(starts)
      pieces = file_system(self._path).cat_ranges(names, starts, ends, on_error="raise")
    for piece, start, stop in zip(pieces, starts, ends, strict=True):
      if len(piece) != stop - start:
        raise OSError(errno.EIO, "It changed while it was read", str(self._path))
    return b"".join(pieces)


def write(path: Any, data: bytes) -> None:
  """Writes the object, whatever was there."""
  with _explained(path):
    file_system(path).pipe_file(os.fspath(path), data)


def upload(file: str | os.PathLike[str], path: Any) -> None:
  """Copies a local file of any size to the object."""
  with _explained(path):
    file_system(path).put_file(os.fspath(file), os.fspath(path))


def create(path: Any, data: bytes) -> str:
  """Writes the object where nothing is; its version. FileExistsError where there is one."""
  return _put_if(path, data, None)


def replace(path: Any, data: bytes, version: str) -> str:
  """Writes the object if it still has this version; its new one. FileExistsError if it has not."""
  return _put_if(path, data, version)


def stat(path: Any) -> Stat:
  """What the store says of one object now. FileNotFoundError where there is none."""
  with _explained(path):
    fs = file_system(path)
    info = fs.info(os.fspath(path))
  if info.get("type") == "directory":
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
  return _stat(info)


def modified(path: Any) -> float:
  """When the object was written, in seconds by the store's clock."""
  with _explained(path):
    return file_system(path).modified(os.fspath(path)).timestamp()


def listing(folder: Any) -> dict[str, Stat]:
  """The objects below the folder, by their path in it; one listing, nothing is read."""
  with _explained(folder):
    fs = file_system(folder)
    found = fs.find(os.fspath(folder), detail=True)
  root = os.fspath(folder).split("://", 1)[1].rstrip("/") + "/"
  files = {name.removeprefix(root): info for name, info in found.items() if name.startswith(root)}
  return {name: _stat(info) for name, info in files.items() if name and not name.endswith("/")}


def remove(path: Any) -> None:
  """Deletes the object of this name, and all below it."""
  names = listing(path)
  with _explained(path):
    fs = file_system(path)
    if names:
      fs.rm([f"{os.fspath(path)}/{name}" for name in names])
    with contextlib.suppress(FileNotFoundError):
      fs.rm_file(os.fspath(path))


def move(path: Any, target: Any) -> None:
  """Copies the object, or all below the name, within the store, and deletes what was copied."""
  root = os.fspath(path)
  with _explained(path):
    fs = file_system(path)
    for name in listing(path) or [""]:
      below = f"/{name}" if name else ""
      fs.cp_file(root + below, os.fspath(target) + below)
  remove(path)


class Lines:
  """A growing file of lines, kept as objects: `append` returns when the lines are in the bucket.

  An object cannot grow. So the newest lines are in small objects in '<name>.parts/', each named by
  the byte at which it begins. Once a minute, and at the end, the file is written whole and they are
  deleted. `read_growing` puts the parts together; one that the file holds already, left by a killed
  process, is known by its name.

  Args:
    path: the file.
    start: the content that it begins with.
  """

  _PART_BYTES = 1 << 16
  _WHOLE_SECS = 60.0

  def __init__(self, path: Any, start: bytes):
    self._path = path
    self._content = bytearray(start)
    self._begin = len(start)  # Of the part that grows now.
    self._whole_at = time.monotonic()
    try:
      is_there = read_growing(path) == start
    except FileNotFoundError:
      is_there = False
    if not is_there:
      remove(_parts(path))
      write(path, start)

  def append(self, data: bytes) -> None:
    size = len(self._content)
    self._content += data
    try:
      write(_part(self._path, self._begin), bytes(self._content[self._begin :]))
    except OSError:
      del self._content[size:]
      raise
    if time.monotonic() - self._whole_at > self._WHOLE_SECS:
      self.close()
    elif len(self._content) - self._begin > self._PART_BYTES:
      self._begin = len(self._content)

  def close(self) -> None:
    """Writes the file whole; more may be appended afterwards."""
    write(self._path, bytes(self._content))
    remove(_parts(self._path))
    self._begin = len(self._content)
    self._whole_at = time.monotonic()


def read_growing(path: Any, *, max_bytes: int = 1 << 30) -> bytes:
  """The content of what `Lines` wrote, also when its process was killed."""
  content = read(path, max_bytes=max_bytes)
  for name in sorted(listing(_parts(path))):
    if name.isdecimal() and int(name) == len(content):
      content += read(_parts(path) / name, max_bytes=max_bytes - len(content))
  return content


def _parts(path: Any) -> Any:
  return path.parent / f"{path.name}.parts"


def _part(path: Any, begin: int) -> Any:
  return _parts(path) / f"{begin:015d}"


def _stat(info: dict[str, Any]) -> Stat:
  etag = str(info.get("ETag", "")).strip('"')
  if md5 := info.get("md5Hash"):
    checksum = f"md5:{md5}"
  elif re.fullmatch("[0-9a-f]{32}", etag):  # S3's, of an object that was written in one request.
    checksum = f"md5:{base64.b64encode(bytes.fromhex(etag)).decode()}"
  elif crc := info.get("crc32c"):
    checksum = f"crc32c:{crc}"
  else:
    checksum = f"etag:{etag}"
  return Stat(int(info["size"]), checksum, str(info.get("generation") or info.get("ETag")))


def _put_if(path: Any, data: bytes, version: str | None) -> str:
  """`create` or `replace`. An answer that got lost is asked for again, so 'no' may mean 'done'."""
  fs = file_system(path)
  bucket, key, _ = fs.split_path(os.fspath(path))
  try:
    with _explained(path):
      if os.fspath(path).startswith("gs://"):
        info = fs.call(
          "POST",
          f"{fs._location}/upload/storage/v1/b/{bucket}/o",
          uploadType="media",
          name=key,
          ifGenerationMatch=version or "0",
          headers={"Content-Type": "application/octet-stream"},
          data=data,
          json_out=True,
        )
        return str(info["generation"])
      rule = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
      return fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **rule)["ETag"]
  except FileExistsError:
    now = stat(path)
    if now.size == len(data) and read(path, max_bytes=len(data)) == data:
      return now.version
    raise


@contextlib.contextmanager
def _explained(path: Any) -> Iterator[None]:
  """Turns what the clients raise into an OSError with `strerror`, which callers report."""
  try:
    yield
  except (FileNotFoundError, FileExistsError, IsADirectoryError) as e:
    if e.strerror is not None:
      raise
    numbers: dict[type, int] = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST}
    number = numbers.get(type(e), errno.EISDIR)
    what = _text(e)
    what = os.strerror(number) if "/" in what else what  # Which is the address alone.
    raise type(e)(number, what, str(path)) from e
  except PermissionError as e:
    raise _refused(path, str(e)) from e
  except OSError as e:
    answer = getattr(e.__cause__, "response", {})  # Of S3, whose client gives it no errno.
    if answer.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict"):
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from e
    if str(e).startswith("Forbidden"):
      raise _refused(path, str(e).partition("\n")[2]) from e
    raise OSError(e.errno or errno.EIO, e.strerror or _text(e), str(path)) from e
  except errors.PaligemmaError:
    raise
  except Exception as e:  # Each client has errors of its own: HttpError, ClientError, RefreshError.
    code = str(getattr(e, "code", ""))
    if code == "401" or "credential" in str(e).lower():
      raise _refused(path, str(e)) from e
    number = errno.ENOSPC if code == "507" else errno.EIO
    raise OSError(number, f"The store answered: {_text(e)}", str(path)) from e


def _refused(path: Any, why: str) -> PermissionError:
  what = f"The store refuses it ({' '.join(why.split())[:200] or 'no permission'})"
  return PermissionError(errno.EACCES, what, str(path))


def _text(e: BaseException) -> str:
  return " ".join(str(e).split())[:200] or type(e).__name__
