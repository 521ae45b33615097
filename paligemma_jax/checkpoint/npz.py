"""big_vision npz files: headers of all members first, then data leaf by leaf with its checksum.

A member is trusted only where its sizes agree: the array header, the zip directory and the bytes in
the file. Nothing is unpickled, and no buffer is larger than the model and the file can justify.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.models import param_table

# bfloat16 has no numpy name of its own: it is stored as two raw bytes.
DTYPES = {
  "<f4": np.dtype(np.float32),
  "<f2": np.dtype(np.float16),
  "|V2": reader.BFLOAT16,
  "<V2": reader.BFLOAT16,
}
MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # numpy's own limit; ours are below 200 bytes.
_CHUNK = 4 << 20
_PIECE = 1 << 20  # Read and checked together, while it is in the processor's cache.
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
# Float weights deflate by 1.1 to 1.4, one that is mostly zeros by a few times; more is a bomb.
_MAX_INFLATION = 20
_FREE_BYTES = 16 << 20
_BAD_ZIP = (
  zipfile.BadZipFile,
  zipfile.LargeZipFile,
  NotImplementedError,
  OSError,
  EOFError,
  ValueError,
  struct.error,
)


_UNREAD = reader.Entry((), np.dtype(np.float32))


@dataclasses.dataclass(frozen=True)
class _Member:
  """One array of the zip file."""

  name: str
  start: int  # Of the (perhaps deflated) bytes in the file.
  stored_bytes: int
  num_bytes: int  # Inflated, array header included.
  deflated: bool
  crc: int
  header_bytes: int = 0
  entry: reader.Entry = _UNREAD
  fortran: bool = False


def open_npz(
  path: str | os.PathLike, *, alone: bool = True, fresh: Collection[str] = ()
) -> reader.Weights:
  """Opens a big_vision npz and checks every header; f32, bf16 or f16, with or without `params/`.

  Args:
    alone: False where the caller knows the sizes that names and shapes cannot tell.
    fresh: names that are not read, and may be missing or of any shape.

  Raises:
    CheckpointError: no such file, a damaged or hostile one, or names and shapes of no PaliGemma.
  """
  path = pathlib.Path(path)
  members = param_table.strip_prefix(_members(path), str(path))
  entries = {name: member.entry for name, member in members.items()}
  shapes = {name: entry.shape for name, entry in entries.items()}
  inferred = param_table.sizes_of(shapes, str(path), fresh)
  return reader.Weights(
    path=path,
    kind="npz",
    entries=entries,
    sizes=read_sizes(path, inferred) if alone and inferred else inferred,
    tokenizer=hub.find_tokenizer(path),
    blocks=lambda name: _blocks(path, members[name]),
  )


def _members(path: pathlib.Path) -> dict[str, _Member]:
  """{name as stored: member} after every check that needs no data."""
  file_bytes = reader.regular_file(path)
  try:
    with reader.open_file(path) as file:
      infos = file_checks.members(file)
  except _BAD_ZIP as e:
    raise errors.CheckpointError(f"{path}: is no intact npz (zip) file: {e}.") from None
  members: dict[str, _Member] = {}
  with reader.open_file(path) as file:
    for info in infos:
      name = info.filename.removesuffix(".npy")
      where = f"{path}: {info.filename!r}"
      if name == info.filename:
        raise errors.CheckpointError(f"{where} is no array (.npy); weights hold nothing else.")
      if name in members:
        raise errors.CheckpointError(f"{where} is in the file twice; which one counts is unknown.")
      members[name] = _with_header(file, _locate(file, info, file_bytes, where), where)
  end = 0
  for member in sorted(members.values(), key=lambda m: m.start):
    if member.start < end:
      raise errors.CheckpointError(f"{path}: {member.name!r} overlaps another member.")
    end = member.start + member.stored_bytes
  total = sum(member.num_bytes for member in members.values())
  if total > _MAX_INFLATION * file_bytes + _FREE_BYTES:
    raise errors.CheckpointError(
      f"{path}: its {file_bytes} bytes claim to hold {total}; no weights deflate like that."
    )
  return members


def _locate(file, info: zipfile.ZipInfo, file_bytes: int, where: str) -> _Member:
  if not file_checks.is_plain(info):
    raise errors.CheckpointError(f"{where} is encrypted or packed by another method than deflate.")
  raw = b""
  if 0 <= info.header_offset < file_bytes:
    file.seek(info.header_offset)
    raw = file.read(_LOCAL_HEADER.size)
  if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
    raise errors.CheckpointError(f"{where} is not where the zip directory says: damaged.")
  *_, name_len, extra_len = _LOCAL_HEADER.unpack(raw)
  member = _Member(
    name=info.filename,
    start=info.header_offset + _LOCAL_HEADER.size + name_len + extra_len,
    stored_bytes=info.compress_size,
    num_bytes=info.file_size,
    deflated=info.compress_type == zipfile.ZIP_DEFLATED,
    crc=info.CRC,
  )
  if member.start + member.stored_bytes > file_bytes:
    raise errors.CheckpointError(f"{where} reaches beyond the end of the file: truncated.")
  if not member.deflated and member.stored_bytes != member.num_bytes:
    raise errors.CheckpointError(f"{where} is stored with two different sizes: damaged.")
  return member


def _with_header(file, member: _Member, where: str) -> _Member:
  """The member with shape and dtype from its array header; the sizes must agree."""
  file.seek(member.start)
  head = file.read(min(member.stored_bytes, _MAX_HEADER + 12))
  if member.deflated:
    try:
      head = zlib.decompressobj(-15).decompress(head, _MAX_HEADER + 12)
    except zlib.error as e:
      raise errors.CheckpointError(f"{where} cannot be inflated: {e}.") from None
  if head[:6] != MAGIC:
    raise errors.CheckpointError(
      f"{where} is no numpy array (a pickle, perhaps; those are never read)."
    )
  wide = head[6:7] != b"\x01"
  start = 12 if wide else 10
  header_len = int.from_bytes(head[8:start], "little")
  known = head[6:7] in (b"\x01", b"\x02", b"\x03")
  if not known or header_len > min(_MAX_HEADER, len(head) - start):
    raise errors.CheckpointError(f"{where} has an array header of {header_len} bytes: damaged.")
  entry, fortran = _parse_header(head[start : start + header_len], where)
  if start + header_len + entry.num_bytes != member.num_bytes:
    raise errors.CheckpointError(
      f"{where} says {entry.dtype}{list(entry.shape)}, that is {entry.num_bytes} bytes, but"
      f" {member.num_bytes - start - header_len} bytes are declared for its data."
    )
  return dataclasses.replace(member, header_bytes=start + header_len, entry=entry, fortran=fortran)


def _parse_header(raw: bytes, where: str) -> tuple[reader.Entry, bool]:
  try:
    header = ast.literal_eval(raw.decode("latin1").strip())
  except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
    header = None
  if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
    raise errors.CheckpointError(f"{where} has a damaged array header.")
  descr, shape = header["descr"], header["shape"]
  if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
    raise errors.CheckpointError(f"{where} has the shape {_shown(shape)}.")
  if not isinstance(descr, str) or descr not in DTYPES:
    hint = " Arrays of objects are pickles; those are never read." if "O" in _shown(descr) else ""
    raise errors.CheckpointError(
      f"{where} has dtype {_shown(descr)}; weights are float32 '<f4', bfloat16 '|V2' or float16"
      f" '<f2'.{hint}"
    )
  return reader.Entry(shape, DTYPES[descr]), header["fortran_order"] is True


def _shown(value: object) -> str:
  try:
    return repr(value)[:100]
  except ValueError:  # Python writes no number of more than some thousand digits.
    return "with a number of thousands of digits"


def _blocks(path: pathlib.Path, member: _Member) -> Iterator[np.ndarray]:
  """The array in blocks of whole rows; the checksum is verified before the iterator ends."""
  entry = member.entry
  shape = entry.shape if entry.shape else (1,)
  with reader.open_file(path) as file:
    where = f"{path}: {member.name!r}"
    if member.deflated:
      stream: _Stream | _Stored = _Stream(_chunks(file, member, where))
    else:
      stream = _Stored(file, member, where)
    stream.fill(memoryview(bytearray(member.header_bytes)))
    if member.fortran:  # Its rows are not contiguous: the whole array is one block.
      whole = np.empty(shape[::-1], entry.dtype)
      stream.fill(whole.reshape(-1).view(np.uint8).data)
      stream.finish()
      yield whole.T.reshape(entry.shape)
      return
    num_rows = reader.rows_per_block(shape, entry.dtype.itemsize)
    block = np.empty((min(num_rows, shape[0]), *shape[1:]), entry.dtype)
    for row in range(0, shape[0], num_rows):
      part = block[: min(num_rows, shape[0] - row)]
      stream.fill(part.reshape(-1).view(np.uint8).data)
      yield part
    stream.finish()


class _Stored:
  """Fills buffers one after the other from bytes that are not deflated, with no copy between."""

  def __init__(self, file, member: _Member, where: str):
    self._file, self._member, self._where = file, member, where
    self._left, self._crc = member.num_bytes, 0
    file.seek(member.start)

  def fill(self, view: memoryview) -> None:
    """Reads the next len(view) bytes into `view`."""
    for start in range(0, len(view), _PIECE):
      piece = view[start : start + _PIECE]
      while len(piece):
        try:
          num_read = self._file.readinto(piece)
        except OSError as e:
          raise errors.CheckpointError(f"{self._where} cannot be read: {e}.") from None
        if not num_read:
          raise errors.CheckpointError(
            f"{self._where} ends {self._left} bytes early: truncated or damaged."
          )
        self._crc = zlib.crc32(piece[:num_read], self._crc)
        self._left -= num_read
        piece = piece[num_read:]

  def finish(self) -> None:
    """Compares the checksum."""
    if self._left or self._crc != self._member.crc:
      raise errors.CheckpointError(f"{self._where} fails its checksum: the file is damaged.")


class _Stream:
  """Fills buffers one after the other from an iterator of chunks."""

  def __init__(self, chunks: Iterator[memoryview]):
    self._chunks = chunks
    self._rest = memoryview(b"")

  def fill(self, view: memoryview) -> None:
    """Writes the next len(view) bytes into `view`."""
    at = 0
    while at < len(view):
      if not len(self._rest):
        self._rest = next(self._chunks)
      part = self._rest[: len(view) - at]
      view[at : at + len(part)] = part
      self._rest = self._rest[len(part) :]
      at += len(part)

  def finish(self) -> None:
    """Lets the chunks verify that they ended where they should."""
    for _ in self._chunks:
      raise AssertionError("more chunks than the member has bytes")


def _chunks(file, member: _Member, where: str) -> Iterator[memoryview]:
  """The inflated bytes of the member, exactly `num_bytes` of them; raises if anything differs."""
  inflate = zlib.decompressobj(-15)
  file.seek(member.start)
  to_read, to_give, crc = member.stored_bytes, member.num_bytes, 0
  while to_give:
    try:
      packed = inflate.unconsumed_tail
      if not packed and to_read:
        packed = file.read(min(_CHUNK, to_read))
        to_read -= len(packed)
      chunk = memoryview(inflate.decompress(packed, min(_CHUNK, to_give)))
    except (OSError, zlib.error) as e:
      raise errors.CheckpointError(f"{where} cannot be read: {e}.") from None
    if not len(chunk) and not to_read and not inflate.unconsumed_tail:
      raise errors.CheckpointError(f"{where} ends {to_give} bytes early: truncated or damaged.")
    crc = zlib.crc32(chunk, crc)
    to_give -= len(chunk)
    if not to_give and crc != member.crc:
      raise errors.CheckpointError(f"{where} fails its checksum: the file is damaged.")
    if len(chunk):
      yield chunk


_SUFFIX = ".sizes.json"
_WORDS = {
  "attn_softcap": "attention softcap",
  "final_softcap": "final softcap",
  "query_scale": "scale of queries",
  "sliding_window": "sliding window",
}


def beside(path: pathlib.Path) -> pathlib.Path:
  """The file that belongs to an npz."""
  return path.with_name(path.name + _SUFFIX)


def write_sizes(path: pathlib.Path, sizes: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
  """Writes the file of the npz `path` where one is needed, and removes one that is not.

  Args:
    sizes: of the model.
    inferred: what readers make of names and shapes.
  """
  differ = {k: sizes["llm"][k] for k in _WORDS if sizes["llm"][k] != inferred["llm"][k]}
  if not differ:
    beside(path).unlink(missing_ok=True)
    return
  atomic_io.write_atomically(beside(path), json.dumps({"llm": differ}, indent=2) + "\n")
  logging.warning(
    "%s: the npz format cannot hold the model's %s; %s does. Keep the two together; programs"
    " other than this one must be told.",
    path,
    _in_words(differ),
    beside(path).name,
  )


def read_sizes(path: pathlib.Path, inferred: Mapping[str, Any]) -> dict[str, Any]:
  """The sizes of the npz `path`: those of names and shapes, and of the file beside it.

  Raises:
    CheckpointError: the file is damaged.
  """
  llm = dict(inferred["llm"])
  if not beside(path).exists():
    if llm["post_norms"]:
      values = {k: llm[k] for k in ("attn_softcap", "final_softcap", "sliding_window")}
      log = logging.info if hub.hub_id(path) else logging.warning
      log(
        "%s: an npz does not say the model's %s, so those of the published PaliGemma 2 are taken."
        " A model with others needs overrides, as {'llm.final_softcap': 30.0}.",
        path,
        _in_words(values),
      )
    return {**inferred, "llm": llm}
  found = reader.read_json(beside(path)).get("llm")
  if (
    not isinstance(found, dict)
    or not found.keys() <= _WORDS.keys()
    or not all(_fits(llm[key], value) for key, value in found.items())
  ):
    raise errors.CheckpointError(
      f"{beside(path)}: is damaged: expected 'llm' with some of {', '.join(_WORDS)}."
    )
  return {**inferred, "llm": {**llm, **found}}


def _in_words(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{_WORDS[key]} ({value})" for key, value in values.items())


def _fits(example: Any, value: Any) -> bool:
  if isinstance(example, str):
    return value in ("head_dim", "width_per_head")
  whole = type(value) is int or (isinstance(example, float) and type(value) is float)
  return whole and 0 <= value < 1 << 31
