"""Arrays kept by a key, in memory or in a folder, up to a size.

A folder holds one file per array, FOLDER/KK/KEY: a line of JSON with the array's dtype, shape and
checksum, then its bytes. It can be shared by runs, also at once, and deleted at any time. What is
there is trusted no further than its checksum: a file that does not hold what it says, or not an
array of the kind that is asked for, counts as broken, is left out and written anew.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
import zlib
from collections.abc import Iterable

import ml_dtypes
import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors

_MAX_HEAD_BYTES = 1024
_LEFTOVER_SECS = 3600.0  # What is half written for so long is of a process that was killed.
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Memory:
  """Keeps arrays in this process.

  What comes when it is full is not kept: rows come in a new order every epoch, so to throw out an
  older array for a newer one would gain nothing.

  Attributes:
    max_bytes: the most it holds.
    num_bytes: what it holds.
    num_broken: always 0.
  """

  num_broken = 0

  def __init__(self, max_bytes: int):
    self.max_bytes = max_bytes
    self.num_bytes = 0
    self._arrays: dict[str, np.ndarray] = {}

  def get(self, key: str) -> np.ndarray | None:
    """The array that was put under the key, not to be written to, or None."""
    return self._arrays.get(key)

  def put(self, key: str, array: np.ndarray) -> bool:
    """Keeps a copy of the array; False when there is no room."""
    if key not in self._arrays:
      if self.num_bytes + array.nbytes > self.max_bytes:
        return False
      self._arrays[key] = array.copy()
      self.num_bytes += array.nbytes
    return True


class Folder:
  """Keeps arrays of one dtype and shape in a folder.

  Attributes:
    max_bytes: the most that the folder holds; other runs that write to it are seen at the start.
    num_bytes: what it holds, as far as this process knows.
    num_broken: files that did not hold what they should.

  Args:
    path: is made when it is not there.
    shape, dtype: of every array; float32 or bfloat16.

  Raises:
    WorkdirError: the folder cannot be made or read.
  """

  def __init__(
      self, path: str | os.PathLike[str], shape: Iterable[int], dtype: str, max_bytes: int
  ):
    self.max_bytes = max_bytes
    self.num_broken = 0
    self._path = pathlib.Path(path)
    self._shape = tuple(shape)
    self._dtype = errors.pick(_DTYPES, dtype, "dtype of kept arrays")
    try:
      self._path.mkdir(parents=True, exist_ok=True)
      for partial in self._path.glob("*/.*.partial"):
        if time.time() - partial.lstat().st_mtime > _LEFTOVER_SECS:
          atomic_io.remove(partial)
      self.num_bytes = sum(_file_sizes(self._path))
    except OSError as e:
      raise errors.WorkdirError(
          f"train.img_cache: the folder {str(self._path)!r} cannot be used: {e.strerror or e}."
      ) from e

  def get(self, key: str) -> np.ndarray | None:
    """The array of the key; None when there is none, or none that is whole."""
    try:
      with atomic_io.open_regular(self._file(key)) as f:
        head = f.readline(_MAX_HEAD_BYTES)
        num_bytes = self._dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
        data = f.read(num_bytes + 1)
    except FileNotFoundError:
      return None
    except OSError:
      self.num_broken += 1
      return None
    if len(data) != num_bytes or head != self._head(data):
      self.num_broken += 1
      return None
    return np.frombuffer(data, self._dtype).reshape(self._shape)

  def put(self, key: str, array: np.ndarray) -> bool:
    """Writes the array; False when there is no room, in the folder or on its disk."""
    assert array.shape == self._shape and array.dtype == self._dtype
    data = np.ascontiguousarray(array).tobytes()
    data = self._head(data) + data
    if self.num_bytes + len(data) > self.max_bytes:
      return False
    path = self._file(key)
    # Not forced to the disk: what a crash leaves half written has no right checksum.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
      atomic_io.make_folder(path.parent, below=self._path)
      with atomic_io.open_new(partial) as f:
        f.write(data)
      os.replace(partial, path)
    except OSError:
      partial.unlink(missing_ok=True)
      return False
    self.num_bytes += len(data)
    return True

  def _file(self, key: str) -> pathlib.Path:
    return self._path / key[:2] / key

  def _head(self, data: bytes) -> bytes:
    head = {
        "dtype": self._dtype.name, "shape": list(self._shape), "crc32": f"{zlib.crc32(data):08x}",
    }
    return json.dumps(head).encode() + b"\n"


def _file_sizes(path: pathlib.Path) -> Iterable[int]:
  for entry in os.scandir(path):
    if entry.is_dir(follow_symlinks=False):
      yield from _file_sizes(pathlib.Path(entry.path))
    elif entry.is_file(follow_symlinks=False):
      yield entry.stat().st_size
