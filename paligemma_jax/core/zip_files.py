"""The directory of a zip file, as somebody else wrote it: read with a bound."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

# 40 000 members at the most; zipfile itself makes 400 bytes of memory of every 47 of a directory.
_MAX_BYTES = 2 << 20
_END_BYTES = 1 << 17  # The end record and its comment, which zipfile reads to the file's end.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def members(file: BinaryIO) -> list[zipfile.ZipInfo]:
  """What the directory lists, in its order.

  Raises:
    zipfile.BadZipFile, and what else zipfile raises on damage: no intact directory, or one of more
      than _MAX_BYTES.
  """
  with zipfile.ZipFile(_Bounded(file)) as archive:
    return archive.infolist()


def is_plain(info: zipfile.ZipInfo) -> bool:
  """Whether a member is stored or deflated; others ask for memory of a size that they name."""
  return not info.flag_bits & 0x1 and info.compress_type in _PACKED


class _Bounded:
  """A file for zipfile, which reads the directory at once, whatever its size."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

  def read(self, num_bytes: int = -1) -> bytes:
    """As of a file, a little at a time."""
    if num_bytes > _MAX_BYTES:
      raise zipfile.BadZipFile(f"a directory of {num_bytes} bytes, the limit is {_MAX_BYTES}")
    return self._file.read(_END_BYTES if num_bytes < 0 else num_bytes)
