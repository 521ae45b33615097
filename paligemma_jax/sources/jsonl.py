"""JSON lines: one object per line, images as files. Strict, with line numbers in errors."""

from __future__ import annotations

import array
import codecs
import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.sources import files

MAX_LINE_BYTES = 1 << 20


@spec_lib.spec
class Jsonl:
  """Rows of a .jsonl file.

  The fields of nested objects are also columns 'outer/inner', those of a list of objects as lists:
  {"objects": {"bbox": …}} has a column objects/bbox.

  Attributes:
    path: the file: local, gs:// or s3://.
    images: the folder that image paths are relative to; '' is the folder of `path`.
    columns: the columns that every row must have, not null; a row may have others, too.
    image_column: the column with the path of the row's image, or with a list of paths for several
      frames; a tuple of names for several images; '' for none. The column becomes the content
      (bytes, or a list of bytes), and `<column>_path` holds the path.
  """

  path: str
  images: str = ""
  columns: tuple = ()
  image_column: str | tuple = "image"

  def open(self) -> JsonlRows:
    """ConfigError for an unreadable file, DataError for one that is not JSON lines."""
    images = files.folder(self.images, self.path)
    return JsonlRows(self.path, images, self.columns, image_columns(self.image_column))

  def makes(self) -> tuple[str, ...]:
    return made(self.columns, self.image_column)


def image_columns(names: str | tuple[str, ...]) -> tuple[str, ...]:
  """The names in a spec's `image_column`."""
  return tuple(name for name in ((names,) if isinstance(names, str) else names) if name)


def made(columns: tuple[str, ...], image_column: str | tuple[str, ...]) -> tuple[str, ...]:
  """The columns that rows with these columns have."""
  return (*columns, *(f"{c}_path" for c in image_columns(image_column) if c in columns))


class JsonlRows(files.Rows):
  """The rows of a `Jsonl` source. Picklable; holds 26 bytes per row."""

  def __init__(self, path: str, images: str, columns: Sequence[str], image_columns: Sequence[str]):
    self._path, self._images = path, images
    self._columns, self._image_columns = tuple(columns), tuple(image_columns)
    self._connect()
    try:
      head = self._file.read(_HEAD_BYTES)
      self._file.seek(0)
      rows, self._digests, self._crc = self._index(head)
    except OSError as e:
      raise errors.ConfigError(f"Cannot read {path!r}: {e.strerror or e}.") from None
    self._starts, self._sizes, self._lines = np.array(rows, np.int64).reshape(-1, 3).T.copy()

  def __len__(self) -> int:
    return len(self._starts)

  def _row(self, i: int) -> dict[str, Any]:
    start, size = int(self._starts[i]), int(self._sizes[i])
    if size > MAX_LINE_BYTES:
      raise errors.DataError(f"the line has {size} bytes, the limit is {MAX_LINE_BYTES}.")
    with self._lock:
      self._file.seek(start)
      line = self._file.read(size)
    if len(line) != size:
      raise errors.DataError("the file was cut short while it was being read.")
    row = self._parsed(line)
    for column in self._columns:
      if row.get(column) is None:
        found = "null" if column in row else "columns " + ", ".join(map(repr, row))
        hint = chat_hint(row, self._path)
        raise errors.DataError(f"column {column!r} is missing: found {found}.{hint}")
    for column in self._image_columns:
      name = row.get(column)
      if name is not None:
        read = files.read_all_under if isinstance(name, list) else files.read_under
        with errors.within(f"column {column!r}"):
          row |= {f"{column}_path": name, column: read(self._images, name)}
    return row

  def where(self, i: int) -> str:
    """File and line of a row, as editors and grep write it."""
    return f"{self._path}:{self._lines[i]}"

  def fingerprint(self) -> str:
    """Of the file's content, not of image files."""
    return f"jsonl:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the lines."""
    return self._digests

  def _index(self, head: bytes) -> tuple[array.array, array.array, int]:
    """Start, size and line of each row, one after the other; their digests; the file's crc32.

    DataError for a file of another format, of which `head` is the beginning.
    """
    _check_head(head, self._path, self._columns)
    return _index(self._file)

  def _parsed(self, line: bytes) -> dict[str, Any]:
    """The columns of a row's text, images not yet read."""
    row = parse_line(line)
    return {**dict(flat(row)), **row}

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in self.__dict__.items() if k not in ("_file", "_lock")}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._connect()

  def _connect(self) -> None:
    self._file = files.open_data(self._path)
    self._lock = threading.Lock()


def parse_line(line: bytes) -> dict[str, Any]:
  """The object of one line; DataError for anything else."""
  try:
    row = strict_json.parse(line.rstrip(b"\r\n"))
  except strict_json.Malformed as e:
    if b"\0" in line and "UTF-8" not in str(e):
      raise errors.DataError("the line holds a NUL (UTF-16? only UTF-8 is read).") from None
    raise errors.DataError(f"{e}.") from None
  if not isinstance(row, dict):
    raise errors.DataError(f"expected one JSON object per line, found a {type(row).__name__}.")
  return row


def _index(file: BinaryIO) -> tuple[array.array, array.array, int]:
  """Start, size and number of each line that is not blank; their digests; the crc32 of the file.

  Lines end at \\n only; a BOM belongs to no line. A line of any length takes bounded memory.
  """
  digests = array.array("H")
  rows = array.array("q")
  bom = file.read(len(codecs.BOM_UTF8))
  start = len(codecs.BOM_UTF8) if bom == codecs.BOM_UTF8 else 0
  file.seek(start)
  crc, digest, position, number, blank = zlib.crc32(bom[:start]), 0, start, 1, True
  while True:
    piece = file.readline(MAX_LINE_BYTES + 1)
    crc = zlib.crc32(piece, crc)
    # Without its end, which the last line may lack until rows are appended.
    digest = zlib.crc32(piece.rstrip(b"\r\n"), digest)
    position += len(piece)
    blank = blank and not piece.strip()
    if piece and not piece.endswith(b"\n"):
      continue
    if not blank:
      rows.extend((start, position - start, number))
      digests.append(digest & 0xFFFF)
    if not piece:
      break
    start, number, blank, digest = position, number + 1, True, 0
  return rows, digests, crc


_MAX_DEPTH = 8
IMAGE = {"bytes", "path"}  # The fields of an image of Hugging Face, which is a single value.


def _is_record(value: Any) -> bool:
  return isinstance(value, Mapping) and bool(value) and value.keys() != IMAGE


def flat(row: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
  """(column, value) of a row; the fields of records are columns 'outer/inner'.

  A list of records with the same fields comes as it is, and then as a column for each of them.
  """
  for name, value in row.items():
    if _is_record(value) and depth < _MAX_DEPTH:
      yield from flat(value, f"{above}{name}/", depth + 1)
      continue
    yield above + name, value
    parts = value if isinstance(value, list) and all(map(_is_record, value)) else []
    if parts and depth < _MAX_DEPTH and all(part.keys() == parts[0].keys() for part in parts):
      fields = {field: [part[field] for part in parts] for field in parts[0]}
      yield from flat(fields, f"{above}{name}/", depth + 1)


_HEAD_BYTES = 1 << 16  # Of a file, enough to recognize its format.
CHATS = ("messages", "conversations")  # Columns that hold a conversation.

_CONVERT = "python -m tools.convert_data {kind} {path!r} --out rows.jsonl makes them of it"
_COCO = {"images", "annotations", "categories", "info", "licenses"}


def _check_head(head: bytes, path: str, wanted: Sequence[str]) -> None:
  """DataError for an array, objects over several lines, another format, or conversations."""
  text = head.removeprefix(codecs.BOM_UTF8).lstrip()
  line, _, rest = text.partition(b"\n")
  try:
    first = strict_json.parse(line.rstrip(b"\r"))
  except strict_json.Malformed:
    first = None
  what = kind = ""
  if text.startswith(b"["):
    if first is None or (not rest.strip() and first and isinstance(first[0], Mapping)):
      what, kind = "one JSON array", "json"
  elif text.startswith(b"{") and first is None:
    try:
      value, end = json.JSONDecoder().raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # It is incomplete.
      value, end = None, 0
    start = text[:200].decode("utf-8", "replace")
    keys = value.keys() if isinstance(value, Mapping) else {k for k in _COCO if f'"{k}"' in start}
    if keys & _COCO and not keys & {"image", "prefix", "suffix"}:
      raise errors.DataError(
        f"{path} is one JSON object with {', '.join(sorted(keys & _COCO))}, as COCO has it;"
        f" expected one object a line. Read it with sources.Coco, or"
        f" {_CONVERT.format(kind='coco', path=path)}."
      )
    if b"\n" in text[:end].strip():
      what, kind = "pretty-printed JSON, objects over several lines", "json"
  elif text.startswith(b"{"):
    missing = [name for name in wanted if name not in first]
    if missing and (hint := chat_hint(first, path)):
      raise errors.DataError(f"{path}: its rows have no column {missing[0]!r}.{hint}")
  elif text:
    found, remedy = file_checks.unread_format(text)
    if found:
      raise errors.DataError(f"{path} is {found}; expected one JSON object a line. {remedy}.")
    if b"," in line and b"," in rest.partition(b"\n")[0] and b'":' not in line:
      raise errors.DataError(
        f"{path} is a table (CSV); expected one JSON object a line. Read it with sources.Csv."
      )
  if what:
    convert = _CONVERT.format(kind=kind, path=path)
    raise errors.DataError(f"{path} is {what}; expected one JSON object a line: {convert}.")


def is_chat(row: Mapping[str, Any]) -> str:
  """The column of a row that holds a conversation; '' without one."""
  return next((name for name in CHATS if isinstance(row.get(name), list)), "")


def chat_hint(row: Mapping[str, Any], path: str) -> str:
  """What to add to "there is no such column" for a row with a conversation; else ''."""
  if not (chat := is_chat(row)):
    return ""
  hint = f" The column {chat!r} is of a chat format; rows here have image, prefix and suffix:"
  return f"{hint} {_CONVERT.format(kind='chat', path=path)}."
