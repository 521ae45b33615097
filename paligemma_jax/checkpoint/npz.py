"""big_vision npz files: headers of all members first, then data leaf by leaf with its checksum.

And our own directories of one, see `export.save_native`; without its seal one does not exist.

A member is trusted only where its sizes agree: the array header, the zip directory and the bytes in
the file. Nothing is unpickled, and no buffer is larger than the model and the file can justify.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
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
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import trees
from paligemma_jax.models import param_table

# bfloat16 has no numpy name of its own: it is stored as two raw bytes.
DTYPES = {
  "<f4": np.dtype(np.float32),
  "<f2": np.dtype(np.float16),
  "|V2": reader.BFLOAT16,
  "<V2": reader.BFLOAT16,
}
FORMAT = "paligemma_jax weights 1"
CONFIG, PARAMS, TOKENIZER, SEAL = "config.json", "params.npz", "tokenizer.model", "SEAL.json"
_MAX_SMALL_BYTES = 16 << 20  # Of a tokenizer, say; Gemma's has 4 MB.

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # numpy's own limit; ours are below 200 bytes.
_PIECE = 1 << 20  # Read and checked together, while it is in the processor's cache.
# Float weights deflate by 1.1 to 1.4, one that is mostly zeros by a few times; more is a bomb.
_MAX_INFLATION = 20
_FREE_BYTES = 16 << 20
_BAD_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError,
    NotImplementedError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Member:
  """One array of the zip file."""

  info: zipfile.ZipInfo
  header_bytes: int
  entry: reader.Entry
  fortran: bool


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
  path = bucket.path(path)
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
    blocks=lambda name, fill=reader.fill_alone: _blocks(path, members[name], fill),
  )


def open_native(path: str | os.PathLike, fresh: Collection[str] = ()) -> reader.Weights:
  """Opens a directory that `export.save_native` wrote, its seal and all headers checked.

  Args:
    fresh: names that are not read, and may be of any shape.

  Raises:
    CheckpointError: the seal is missing or broken, or a file is damaged.
  """
  path = bucket.path(path)
  if not (path / SEAL).exists():
    raise errors.CheckpointError(f"{path}: has no {SEAL}: not written or copied to the end.")
  content = reader.read_json(path / SEAL)
  files = content.get("files")
  if (
    not isinstance(files, dict)
    or not {CONFIG, PARAMS} <= set(files)
    or content.get("crc32") != seal_crc(files)
  ):
    raise errors.CheckpointError(f"{path / SEAL}: fails its own checksum: damaged.")
  for name in sorted({CONFIG, PARAMS, TOKENIZER} & set(files)):
    with reader.open_file(path / name) as file:
      size, sealed = atomic_io.size_of(file), files[name]
      if not isinstance(sealed, dict) or sealed.get("bytes") != size:
        raise errors.CheckpointError(f"{path / name}: {size} bytes, but sealed as {sealed}.")
      if name != PARAMS and zlib.crc32(file.read(_MAX_SMALL_BYTES)) != sealed.get("crc32"):
        raise errors.CheckpointError(f"{path / name}: differs from what was sealed: damaged.")
  config = reader.read_json(path / CONFIG)
  if config.get("format") != FORMAT:
    raise errors.CheckpointError(
      f"{path / CONFIG}: format is {config.get('format')!r}, expected {FORMAT!r}."
    )
  weights = open_npz(path / PARAMS, alone=False, fresh=fresh)
  found = {name: entry.shape for name, entry in weights.entries.items()}
  sizes = _checked_sizes(config.get("model"), weights.sizes, f"{path / CONFIG}")
  param_table.check(found, param_table.shapes(sizes), str(path), fresh)
  tokenizer = path / TOKENIZER if TOKENIZER in files else None
  return dataclasses.replace(weights, path=path, kind="native", sizes=sizes, tokenizer=tokenizer)


def seal_crc(files: Mapping[str, Any]) -> int:
  """The checksum of what a seal says of the files."""
  return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _members(path: pathlib.Path) -> dict[str, _Member]:
  """{name as stored: member} after every check that needs no data."""
  members: dict[str, _Member] = {}
  with _intact(f"{path}: is no intact npz (zip) file"), reader.open_file(path) as file:
    file_bytes = atomic_io.size_of(file)
    infos = file_checks.members(file)
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
      if info.header_offset < end:
        raise errors.CheckpointError(f"{path}: {info.filename!r} overlaps another member.")
      end = info.header_offset + info.compress_size
    with zipfile.ZipFile(file) as archive:
      for info in infos:
        name = info.filename.removesuffix(".npy")
        where = f"{path}: {info.filename!r}"
        if name == info.filename:
          raise errors.CheckpointError(f"{where} is no array (.npy); weights hold nothing else.")
        if name in members:
          raise errors.CheckpointError(f"{where} is in the file twice; which counts is unknown.")
        with _intact(f"{where} is damaged"):
          members[name] = _member(archive, info, where)
  total = sum(info.file_size for info in infos)
  if total > _MAX_INFLATION * file_bytes + _FREE_BYTES:
    raise errors.CheckpointError(
      f"{path}: its {file_bytes} bytes claim to hold {total}; no weights deflate like that."
    )
  return members


@contextlib.contextmanager
def _intact(what: str) -> Iterator[None]:
  """Makes what zipfile raises in the body, which is of many types, a CheckpointError."""
  try:
    yield
  except _BAD_ZIP as e:
    raise errors.CheckpointError(f"{what}: {str(e) or 'it ends early'}.") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> _Member:
  """The member with shape and dtype from its array header; the sizes must agree."""
  if not file_checks.is_plain(info):
    raise errors.CheckpointError(f"{where} is encrypted or packed by another method than deflate.")
  if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
    raise errors.CheckpointError(f"{where} is stored with two different sizes: damaged.")
  with archive.open(info) as stream:
    head = stream.read(_MAX_HEADER + 12)
  if head[:6] != MAGIC:
    raise errors.CheckpointError(
      f"{where} is no numpy array (a pickle, perhaps; those are never read)."
    )
  start = 10 if head[6:7] == b"\x01" else 12
  header_len = int.from_bytes(head[8:start], "little")
  known = head[6:7] in (b"\x01", b"\x02", b"\x03")
  if not known or header_len > min(_MAX_HEADER, len(head) - start):
    raise errors.CheckpointError(f"{where} has an array header of {header_len} bytes: damaged.")
  entry, fortran = _parse_header(head[start : start + header_len], where)
  if start + header_len + entry.num_bytes != info.file_size:
    raise errors.CheckpointError(
      f"{where} says {entry.dtype}{list(entry.shape)}, that is {entry.num_bytes} bytes, but"
      f" {info.file_size - start - header_len} bytes are declared for its data."
    )
  return _Member(info, start + header_len, entry, fortran)


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


def _blocks(path: pathlib.Path, member: _Member, fill: reader.Fill) -> Iterator[np.ndarray]:
  """The array in blocks of whole rows; the checksum is verified with the last one."""
  entry, info = member.entry, member.info
  shape = entry.shape if entry.shape else (1,)
  what = f"{path}: {info.filename!r} is damaged or cannot be read"
  is_near = fill is reader.fill_alone and not bucket.is_bucket(path)
  piece = _PIECE if is_near else reader.BLOCK_BYTES
  with _intact(what), reader.open_again(path) as file:
    source: Any = (
      _Stored(file, info, fill)
      if info.compress_type == zipfile.ZIP_STORED
      else zipfile.ZipFile(file).open(info)
    )
    source.readinto(memoryview(bytearray(member.header_bytes)))
    if member.fortran:  # Its rows are not contiguous: the whole array is one block.
      whole = np.empty(shape[::-1], entry.dtype)
      _fill(whole, source, piece)
      yield whole.T.reshape(entry.shape)
      return
    num_rows = reader.rows_per_block(shape, entry.dtype.itemsize)
    block = np.empty((min(num_rows, shape[0]), *shape[1:]), entry.dtype)
    for row in range(0, shape[0], num_rows):
      part = block[: min(num_rows, shape[0] - row)]
      _fill(part, source, piece)
      yield part


def _fill(array: np.ndarray, source: Any, piece: int) -> None:
  view = array.reshape(-1).view(np.uint8).data
  for start in range(0, len(view), piece):
    part = view[start : start + piece]
    if source.readinto(part) < len(part):
      raise EOFError


class _Stored:
  """Reads a member that is not deflated as zipfile does, with no copy between: a fifth faster."""

  def __init__(self, file: io.BufferedReader, info: zipfile.ZipInfo, fill: reader.Fill):
    file.seek(info.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)  # Over a name and extra fields.
    self._file, self._info, self._fill = file, info, fill
    self._at, self._left, self._crc = file.tell(), info.file_size, 0

  def readinto(self, view: memoryview) -> int:
    self._fill(view, self._read)
    self._at += len(view)
    self._crc = zlib.crc32(view, self._crc)
    self._left -= len(view)
    if not self._left and self._crc != self._info.CRC:
      raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._info.filename!r}")
    return len(view)

  def _read(self, at: int, part: memoryview) -> None:
    self._file.seek(self._at + at)
    if self._file.readinto(part) < len(part):
      raise EOFError


_WORDS = {
  "attn_softcap": "attention softcap",
  "final_softcap": "final softcap",
  "query_scale": "scale of queries",
  "sliding_window": "sliding window",
}


def beside(path: pathlib.Path) -> pathlib.Path:
  """The file that belongs to an npz."""
  return path.with_name(f"{path.name}.sizes.json")


def write_sizes(path: pathlib.Path, sizes: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
  """Writes the file of the npz `path` where one is needed, and removes one that is not.

  Args:
    sizes: of the model.
    inferred: what readers make of names and shapes.
  """
  differ = {k: sizes["llm"][k] for k in _WORDS if sizes["llm"][k] != inferred["llm"][k]}
  if not differ:
    atomic_io.remove(beside(path))
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
    or not all(is_size(value, llm[key]) for key, value in found.items())
  ):
    raise errors.CheckpointError(
      f"{beside(path)}: is damaged: expected 'llm' with some of {', '.join(_WORDS)}."
    )
  return {**inferred, "llm": {**llm, **found}}


def is_size(value: Any, example: Any) -> bool:
  """Whether a stored size has the type and range of the one that names and shapes give."""
  if isinstance(example, str):
    return value in ("head_dim", "width_per_head")
  if isinstance(example, float):
    return type(value) in (int, float) and 0 <= value < 1 << 31
  # A count that the shapes give is at least 1; a window may be 0.
  return type(value) is type(example) and min(example, 1) <= value < 1 << 31


def _in_words(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{_WORDS[key]} ({value})" for key, value in values.items())


def _checked_sizes(found: Any, like: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The sizes of config.json, if they have the form of those that the shapes give."""
  given = trees.flatten(found) if isinstance(found, dict) else {}
  expected = trees.flatten(like)
  if odd := given.keys() ^ expected.keys():
    raise errors.CheckpointError(
      f"{where}: damaged model sizes: {min(odd)} is missing, or no size of a model."
    )
  for name, value in given.items():
    if not is_size(value, expected[name]):
      shown = name.replace("/", ".")
      raise errors.CheckpointError(f"{where}: damaged model sizes: {shown} is {value!r}.")
  return trees.unflatten(given)
