"""CSV: a header and one row per record, images as files. Strict, with line numbers in errors."""

from __future__ import annotations

import array
import codecs
import csv
import io
import zlib
from typing import Any, BinaryIO

from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.sources import files
from paligemma_jax.sources import jsonl

_DELIMITERS = ",;\t"
_BOM = codecs.BOM_UTF8
_AS_UTF8 = "save the table as 'CSV UTF-8'"


@spec_lib.spec
class Csv:
  """Rows of a table in a text file, whose first line names the columns. All values are texts.

  Attributes:
    path: the file, in UTF-8: local, gs:// or s3://.
    images: the folder that image paths are relative to; '' is the folder of `path`.
    columns: the columns that the table must have, and every row not empty; there may be others.
    image_column: the column with the path of the row's image; a tuple of names for several images;
      '' for none. The column becomes the file's bytes, and `<column>_path` holds the path.
    delimiter: between the values of a row; '': the one of comma, semicolon and tab that the header
      has most of.
  """

  path: str
  images: str = ""
  columns: tuple = ()
  image_column: str | tuple = "image"
  delimiter: str = ""

  def __post_init__(self):
    if len(self.delimiter) > 1:
      raise errors.ConfigError(f"Csv.delimiter is {self.delimiter!r}; expected one character.")

  def open(self) -> CsvRows:
    """ConfigError for an unreadable file, DataError for one that is no such table."""
    return CsvRows(self)

  def makes(self) -> tuple[str, ...]:
    return jsonl.made(self.columns, self.image_column)


class CsvRows(jsonl.JsonlRows):
  """The rows of a `Csv` source: as those of JSON lines, but for how a row is written."""

  def __init__(self, source: Csv):
    self._delimiter = source.delimiter
    self._header: tuple[str, ...] = ()
    images = files.folder(source.images, source.path)
    super().__init__(source.path, images, source.columns, jsonl.image_columns(source.image_column))

  def fingerprint(self) -> str:
    """Of the file's content, not of image files."""
    return f"csv:{len(self)} rows:{self._crc:08x}"

  def _index(self, head: bytes) -> tuple[array.array, array.array, int]:
    _check_head(head, self._path)
    first = head.partition(b"\n")[0].decode("utf-8", "replace")
    self._delimiter = self._delimiter or max(_DELIMITERS, key=first.count)
    rows, digests = array.array("q"), array.array("H")
    lines = _Lines(self._file, self._path)
    reader = self._reader(lines)
    while True:
      start, number = lines.end, lines.number + 1
      lines.content = b""
      try:
        values = next(reader, None)
      except csv.Error as e:
        why = str(e).partition(" - ")[0]
        raise errors.DataError(f"{self._path}:{number} is not CSV: {why}.") from None
      if values is None:
        break
      if not values:  # A blank line.
        continue
      if not self._header:
        self._header = self._checked(values)
        continue
      rows.extend((start, lines.end - start, number))
      digests.append(zlib.crc32(lines.content.rstrip(b"\r\n")) & 0xFFFF)
    return rows, digests, lines.crc

  def _reader(self, lines: Any) -> Any:
    # Spaces before a value are those of people who write tables by hand.
    return csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True, strict=True)

  def _checked(self, names: list[str]) -> tuple[str, ...]:
    """The names of the columns; DataError where a wanted one is missing, or one stands twice."""
    names = [name.strip() for name in names]
    for name in names:
      if names.count(name) > 1:
        raise errors.DataError(f"{self._path}: the header names the column {name!r} twice.")
    for name in self._columns:
      if name not in names:
        raise errors.DataError(
          f"{self._path}: there is no column {name!r}; the header has"
          f" {', '.join(map(repr, names))}.{errors.did_you_mean(name, names)}"
        )
    return tuple(names)

  def _parsed(self, line: bytes) -> dict[str, Any]:
    try:
      text = line.decode()
      strict_json.check_text(text)
    except UnicodeDecodeError as e:
      raise errors.DataError(f"not UTF-8 at byte {e.start} of the row: {_AS_UTF8}.") from None
    except strict_json.Malformed as e:
      raise errors.DataError(f"{e}.") from None
    values = next(self._reader(io.StringIO(text, newline="")))
    if len(values) != len(self._header):
      raise errors.DataError(
        f"the row has {len(values)} values, the header {len(self._header)}: a value with a"
        f" {self._delimiter!r} in it must stand in double quotes."
      )
    row = dict(zip(self._header, values, strict=True))
    for column in self._columns:
      if not row[column]:
        raise errors.DataError(f"column {column!r} is empty.")
    return row


class _Lines:
  """The lines of a file as text, one after the other.

  Attributes:
    end: byte after the last line that was read; `number`: of lines read, `crc`: their crc32.
    content: bytes of the lines since it was emptied.
  """

  def __init__(self, file: BinaryIO, path: str):
    self._file, self._path = file, path
    bom = file.read(len(_BOM))
    self.end = len(_BOM) if bom == _BOM else 0
    file.seek(self.end)
    self.number, self.crc, self.content = 0, zlib.crc32(bom[: self.end]), b""

  def __iter__(self) -> _Lines:
    return self

  def __next__(self) -> str:
    line = self._file.readline(jsonl.MAX_LINE_BYTES + 1)
    if not line:
      raise StopIteration
    self.number += 1
    self.content += line
    if len(self.content) > jsonl.MAX_LINE_BYTES:
      raise errors.DataError(
        f"{self._path}:{self.number}: a row has more than {jsonl.MAX_LINE_BYTES} bytes; is a"
        " double quote before it not closed?"
      )
    self.end += len(line)
    self.crc = zlib.crc32(line, self.crc)
    return line.decode("utf-8", "surrogateescape")  # What is not UTF-8 rejects its row alone.


def _check_head(head: bytes, path: str) -> None:
  """DataError for a file of another format."""
  text = head.removeprefix(_BOM).lstrip()
  found, remedy = file_checks.unread_format(text)
  if head.startswith(b"PK"):
    found, remedy = "an archive (ZIP, as Excel's .xlsx files are)", f"For a table, {_AS_UTF8}"
  elif text.startswith((b'{"', b"[{")):
    found, remedy = "JSON", "Read it with sources.Jsonl"
  elif b"\0" in head.partition(b"\n")[0]:
    found, remedy = "not UTF-8 (it holds NULs, as UTF-16 does)", f"In Excel, {_AS_UTF8}"
  if found:
    raise errors.DataError(f"{path} is {found}; expected a table as CSV. {remedy}.")
  if not text:
    raise errors.DataError(f"{path} is empty; expected a table as CSV, with a header.")
