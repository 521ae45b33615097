"""Files of JSON lines that survive a crash."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import faults
from paligemma_jax.core import strict_json

_MAX_BYTES = 1 << 30  # Of a file of lines: millions of steps.


def to_line(record: Mapping[str, Any]) -> bytes:
  """One strict JSON line; a float that JSON cannot hold becomes 'NaN', 'Infinity', '-Infinity'."""
  plain = {key: _json_float(value) for key, value in record.items()}
  return atomic_io.to_bytes(json.dumps(plain, ensure_ascii=False, allow_nan=False)) + b"\n"


def read_lines(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], int]:
  """The intact lines of a file of JSON objects, and how many were not intact.

  A line is intact when it is a JSON object and ends in a newline; the last line of a process that
  was killed may not be. No file is no lines.

  Raises:
    WorkdirError: something else than a file stands there, or one that cannot be read.
  """
  try:
    data = atomic_io.read(path, max_bytes=_MAX_BYTES)
  except FileNotFoundError:
    return [], 0
  except OSError as e:
    raise errors.WorkdirError(f"Cannot read {str(path)!r}: {strict_json.reason(e)}.") from None
  *lines, rest = data.split(b"\n")
  records, num_torn = [], int(bool(rest))
  for line in lines:
    try:
      if len(line) > strict_json.MAX_BYTES:
        raise strict_json.Malformed("longer than any line of ours")
      records.append(strict_json.parse_object(line))
    except strict_json.Malformed:
      num_torn += 1
  return records, num_torn


class LineFile:
  """A file of JSON lines: what was appended is on disk when `append` returns.

  Args:
    path: the file; made when it is missing.
    keep: the lines it starts with; it is rewritten only when it holds anything else.
    fault: the name of the fault points around an append.

  Raises:
    WorkdirError: a link, or something else than a file, stands there.
  """

  def __init__(self, path: str | os.PathLike[str], keep: Iterable[bytes], *, fault: str):
    self.path = pathlib.Path(path)
    self._fault = fault
    start = b"".join(keep)
    if _content(self.path) != start:
      atomic_io.write_atomically(self.path, start)
    self._descriptor = atomic_io.open_own(self.path, os.O_WRONLY | os.O_APPEND)

  def append(self, records: Iterable[Mapping[str, Any]]) -> None:
    """Adds the lines in one write, then waits for the disk."""
    data = b"".join(to_line(record) for record in records)
    if not data:
      return
    faults.point(f"{self._fault}.before_append")
    size = os.fstat(self._descriptor).st_size
    try:
      while data:
        data = data[os.write(self._descriptor, data) :]
    except OSError:
      os.ftruncate(self._descriptor, size)  # A full disk must not leave half a line in between.
      raise
    os.fsync(self._descriptor)
    faults.point(f"{self._fault}.after_append")

  def close(self) -> None:
    """Closes the file; nothing can be appended after."""
    if self._descriptor >= 0:
      os.close(self._descriptor)
      self._descriptor = -1


def _content(path: pathlib.Path) -> bytes | None:
  """What is in the file; None of one that is to be made anew: absent, a link, of several names."""
  try:
    os.close(atomic_io.open_own(path, os.O_WRONLY))
    return atomic_io.read(path, max_bytes=_MAX_BYTES)
  except (FileNotFoundError, errors.WorkdirError):
    return None


def _json_float(value: Any) -> Any:
  if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
  return value
