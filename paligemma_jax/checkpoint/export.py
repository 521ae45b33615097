"""Weights out, streamed and atomic: an npz, our own directory of one, or a Hugging Face directory.

At equal dtype every format is bit-exact.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.models import param_table

_DESCR = {np.dtype(np.float32): "<f4", np.dtype(np.float16): "<f2", reader.BFLOAT16: "|V2"}
_DATE = (1980, 1, 1, 0, 0, 0)  # No time in the file: equal weights make equal bytes.
_SHARD_BYTES = 5 << 30


def save(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  sizes: Mapping[str, Any],
  *,
  format: str,
  dtype: Any = None,
  tokenizer: tokenizers.Tokenizer | None = None,
  source: reader.Weights | None = None,
) -> pathlib.Path:
  """Writes weights in one of the formats, and the tokenizer where the format has a place for it.

  Args:
    params: {published name: array}.
    sizes: of the model, as in `param_table.sizes_of`.
    format: "npz", "native" or "hf".
    dtype: float32, bfloat16 or float16 for all of them; None keeps each one's own.
    source: what the weights were read from: a Hugging Face directory's own files are copied.

  Raises:
    ConfigError: another format.
    CheckpointError: as of the functions below.
  """
  content = tokenizer.model_bytes if tokenizer else b""
  ways = {
    "hf": lambda: save_hf(
      path, params, sizes, *hf_config.other_files(sizes, tokenizer, source), dtype=dtype
    ),
    "native": lambda: save_native(path, params, sizes, dtype=dtype, tokenizer=content),
    "npz": lambda: save_npz(path, params, dtype=dtype, sizes=sizes),
  }
  return errors.pick(ways, format, "format")()


def save_npz(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  *,
  dtype: Any = None,
  sizes: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes {published name: array} as a big_vision npz, with `params/` names, uncompressed.

  Nothing is at `path`, or what was there before, until the file is complete and on disk. bfloat16
  is stored as the two raw bytes '|V2', as released files are.

  Args:
    params: numpy or JAX arrays by name; exactly the names and shapes of one PaliGemma.
    dtype: as of `save`.
    sizes: of the model, as in `param_table.sizes_of`; what the format cannot hold of them goes into
      a file beside it, see `npz.write_sizes`. None: nothing is known but names and shapes.

  Raises:
    CheckpointError: names or shapes of no PaliGemma, a dtype that the format or a number has no
      place in, or the file cannot be written.
  """
  path = bucket.path(path)
  param_table.only_published(params, str(path))
  shapes = {name: tuple(array.shape) for name, array in params.items()}
  inferred = param_table.sizes_of(shapes, str(path))
  targets = {name: _storable(dtype, array, name) for name, array in params.items()}
  with replacing(path) as partial:
    with (
      atomic_io.open_new(partial) as file,
      zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
      for name in sorted(params):
        _write(archive, name, params[name], targets[name])
    if sizes is not None:
      npz.write_sizes(path, sizes, inferred)
  return path


def save_native(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  sizes: Mapping[str, Any],
  *,
  dtype: Any = None,
  tokenizer: bytes = b"",
) -> pathlib.Path:
  """Writes our own directory `path`, which must not exist; it appears complete or not at all.

    config.json       sizes of the model, softcaps and all that an npz alone cannot say
    params.npz        the parameters in the published format, a checksum per array
    tokenizer.model   the SentencePiece file, if there is one
    SEAL.json         size of each file, crc32 of the small ones; written last

  Args:
    params, sizes, dtype: as of `save`.
    tokenizer: content of the SentencePiece file; empty for none.

  Raises:
    CheckpointError: `path` exists, cannot be written, or the parameters do not fit the sizes.
  """
  path = bucket.path(path)
  _check(params, sizes, path)
  with replacing(path, folder=True) as folder:
    save_npz(folder / npz.PARAMS, params, dtype=dtype)
    config = {"format": npz.FORMAT, "model": sizes}
    atomic_io.write_new(folder / npz.CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    if tokenizer:
      atomic_io.write_new(folder / npz.TOKENIZER, tokenizer)
    files = {}
    for file in sorted(folder.iterdir()):
      files[file.name] = {"bytes": file.stat().st_size}
      if file.name != npz.PARAMS:  # Its arrays have their own checksums.
        files[file.name]["crc32"] = zlib.crc32(file.read_bytes())
    seal = {"files": files, "crc32": npz.seal_crc(files)}
    atomic_io.write_new(folder / npz.SEAL, json.dumps(seal, indent=2))
  return path


def save_hf(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  sizes: Mapping[str, Any],
  image_token: int = 0,
  files: Mapping[str, bytes] | None = None,
  *,
  dtype: Any = None,
  shard_bytes: int = _SHARD_BYTES,
) -> pathlib.Path:
  """Writes the directory `path`, which must not exist; it appears complete or not at all.

  It holds config.json and one or several safetensors under the names of the hub's files, and what
  the caller puts beside them. As in released files the embedding is padded to a multiple of 64 by
  its mean row, which is never the most probable token, so that the id of image tokens has a row.

  Args:
    params, sizes, dtype: as of `save`.
    image_token: the id that stands for image tokens; 0: the one of released files.
    files: content of further files, by their names, see `hf_config.other_files`.
    shard_bytes: a file is ended before it grows beyond this.

  Raises:
    CheckpointError: `path` exists, cannot be written, or the parameters do not fit the sizes.
  """
  path = bucket.path(path)
  _check(params, sizes, path)
  image_token = image_token or hf_config.default_image_token(sizes["llm"]["vocab_size"])
  num_rows = hf_config.num_rows(sizes["llm"]["vocab_size"], image_token)
  tensors = _tensors(params, sizes, dtype, num_rows)
  stored = np.result_type(*{entry.dtype for entry, _ in tensors.values()})
  with replacing(path, folder=True) as folder:
    shards = _shards(tensors, shard_bytes)
    weight_map = {}
    for i, shard in enumerate(shards):
      last = f"{i + 1:05d}-of-{len(shards):05d}"
      file = hf.SINGLE if len(shards) == 1 else f"model-{last}.safetensors"
      write_safetensors(folder / file, {name: tensors[name] for name in shard})
      weight_map.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
      total = sum(entry.num_bytes for entry, _ in tensors.values())
      index = {"metadata": {"total_size": total}, "weight_map": weight_map}
      atomic_io.write_new(folder / hf.INDEX, hf_config.to_json(index))
    config = hf_config.config_of(sizes, str(stored), image_token, num_rows)
    atomic_io.write_new(folder / "config.json", hf_config.to_json(config))
    for name, content in (files or {}).items():
      atomic_io.write_new(folder / name, content)
  return path


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, folder: bool = False) -> Iterator[pathlib.Path]:
  """A temporary path beside `path` that takes its place, on disk, when the body succeeds.

  Args:
    folder: it is an empty folder, and nothing may be at `path`; else the body makes the file.

  Raises:
    CheckpointError: the folder exists, or nothing can be written there.
  """
  if folder and path.exists():
    raise errors.CheckpointError(f"{path}: exists; remove it or save to another name.")
  if bucket.is_bucket(path):
    with _uploading(path) as partial:
      if folder:
        partial.mkdir()
      yield partial
    return
  partial = path.with_name(f".{path.name}.partial")
  try:
    atomic_io.remove(partial)  # What a killed process left.
    if folder:
      partial.mkdir(parents=True)
    yield partial
    atomic_io.sync(partial)
    os.replace(partial, path)
    atomic_io.sync(path.parent)
  except OSError as e:
    raise errors.CheckpointError(f"{path}: cannot be written: {e}.") from e
  finally:
    with contextlib.suppress(OSError):
      atomic_io.remove(partial)


_ORDER = {npz.CONFIG: 1, npz.SEAL: 2}  # Of uploads; all others come before.


@contextlib.contextmanager
def _uploading(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path on this machine's disk; what the body makes there is uploaded in its end.

  An object is there whole or not at all; of a folder those go last without which nothing is read.
  """
  with tempfile.TemporaryDirectory(prefix="paligemma_jax-export-") as local:
    partial = pathlib.Path(local) / path.name
    yield partial
    files = [p for p in partial.rglob("*") if p.is_file()] if partial.is_dir() else [partial]
    try:
      for file in sorted(files, key=lambda file: _ORDER.get(file.name, 0)):
        bucket.upload(file, path / file.relative_to(partial) if partial.is_dir() else path)
    except OSError as e:
      raise errors.CheckpointError(f"{path}: cannot be written: {e}.") from e


def write_safetensors(
  path: pathlib.Path, tensors: Mapping[str, tuple[reader.Entry, Iterable[np.ndarray]]]
) -> None:
  """Writes one file and syncs it to disk.

  Args:
    tensors: {name: what it is, its rows in blocks of that dtype}.
  """
  kinds = {dtype: kind for kind, dtype in reader.DTYPES.items()}
  header: dict[str, dict[str, Any]] = {reader.METADATA: {"format": "pt"}}
  at = 0
  for name, (entry, _) in tensors.items():
    place = [at, at + entry.num_bytes]
    header[name] = {"dtype": kinds[entry.dtype], "shape": entry.shape, "data_offsets": place}
    at = place[1]
  raw = json.dumps(header).encode()
  raw += b" " * (-len(raw) % 8)  # So that the data is aligned.
  with atomic_io.open_new(path) as file:
    file.write(len(raw).to_bytes(8, "little") + raw)
    for _, blocks in tensors.values():
      for block in blocks:
        file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
  atomic_io.sync(path)


def _check(params: Mapping[str, Any], sizes: Mapping[str, Any], path: pathlib.Path) -> None:
  """Raises CheckpointError unless {name: array} are exactly the parameters of these sizes."""
  param_table.only_published(params, str(path))
  shapes = {name: tuple(array.shape) for name, array in params.items()}
  param_table.check(shapes, param_table.shapes(sizes), str(path))


def _storable(dtype: Any, array: Any, name: str) -> np.dtype:
  """`dtype`, or the array's own where that is None, if the formats have a place for it."""
  dtype = array.dtype if dtype is None else dtype
  try:
    target = np.dtype(reader.BFLOAT16 if dtype == "bfloat16" else dtype)
  except TypeError:
    target = None
  if target not in _DESCR:
    raise errors.CheckpointError(
      f"{name}: cannot be stored as {dtype}; expected float32, bfloat16 or float16."
    )
  return target


def _as_stored(block: Any, target: np.dtype, name: str) -> np.ndarray:
  """The block in the dtype that it is stored in.

  Raises:
    CheckpointError: float16 has no place for one of its numbers.
  """
  block = np.asarray(block)
  if block.dtype == target:
    return block
  if target != np.float16:
    return block.astype(target)
  with np.errstate(over="ignore"):
    narrow = block.astype(target)
  lost = np.isinf(narrow) & ~np.isinf(block.astype(np.float32))
  if lost.any():
    raise errors.CheckpointError(
      f"{name}: {float(block[lost][0]):g} does not fit float16, whose largest number is 65504;"
      " nothing was written. Store the weights as bfloat16, which has float32's range."
    )
  return narrow


def _write(archive: zipfile.ZipFile, name: str, array: Any, target: np.dtype) -> None:
  member = zipfile.ZipInfo(f"{param_table.PREFIX}{name}.npy", _DATE)
  with archive.open(member, "w", force_zip64=True) as file:
    file.write(_header(tuple(array.shape), target))
    step = reader.rows_per_block(tuple(array.shape), array.dtype.itemsize)
    array = np.asarray(array) if _on_host(array) else array
    for row in range(0, array.shape[0], step):
      block = np.ascontiguousarray(_as_stored(array[row : row + step], target, name))
      file.write(block.reshape(-1).view(np.uint8).data)


def _on_host(array: Any) -> bool:
  """True where a numpy view of the whole array costs no copy (numpy, or one CPU device)."""
  platforms = [d.platform for d in array.devices()] if isinstance(array, jax.Array) else []
  return isinstance(array, np.ndarray) or platforms == ["cpu"]


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  """A version 1.0 npy header, padded to 64 bytes as numpy does."""
  text = f"{{'descr': {_DESCR[dtype]!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
  pad = -(len(npz.MAGIC) + 4 + len(text) + 1) % 64
  body = (text + " " * pad + "\n").encode("latin1")
  return npz.MAGIC + b"\x01\x00" + struct.pack("<H", len(body)) + body


def _tensors(
  params: Mapping[str, Any], sizes: Mapping[str, Any], dtype: Any, num_rows: int
) -> dict[str, tuple[reader.Entry, Iterator[np.ndarray]]]:
  """{their name: what it is, its rows, made when they are written}.

  Args:
    num_rows: of the embedding.
  """
  dims = param_table.dims_of(sizes) | {"V": num_rows}
  tensors = {}
  for name, row in param_table.rows(sizes).items():
    array = params[name]
    entry = reader.Entry(param_table.their_shape(row.layout, dims), _storable(dtype, array, name))
    for their, index in hf.places(row, array.shape[0]):
      if name == param_table.INPUT_EMBEDDING:
        blocks = _embedding(array, entry)
      else:
        blocks = _one(array, index, row, dims, entry.dtype)
      tensors[their] = entry, blocks
  return tensors


def _one(array, index, row: param_table.Param, dims, dtype: np.dtype) -> Iterator[np.ndarray]:
  """The part of our array at `index`, in their layout."""
  for i in index:
    array = array[i]
  theirs = param_table.to_theirs(np.asarray(array), row.layout, dims)
  yield _as_stored(theirs, dtype, row.name)


def _embedding(array, entry: reader.Entry) -> Iterator[np.ndarray]:
  """The embedding in blocks, then its mean for each row of padding."""
  total: Any = 0.0
  name = param_table.INPUT_EMBEDDING
  step = reader.rows_per_block(tuple(array.shape), array.dtype.itemsize)
  for row in range(0, array.shape[0], step):
    block = np.asarray(array[row : row + step])
    total = total + block.sum(axis=0, dtype=np.float64)
    yield _as_stored(block, entry.dtype, name)
  mean = np.asarray(total / array.shape[0], np.float32)[None]
  spare = entry.shape[0] - array.shape[0]
  yield np.repeat(_as_stored(mean, entry.dtype, name), spare, axis=0)


def _shards(tensors: Mapping[str, tuple[reader.Entry, Any]], shard_bytes: int) -> list[list[str]]:
  shards: list[list[str]] = [[]]
  used = 0
  for name, (entry, _) in tensors.items():
    if shards[-1] and used + entry.num_bytes > shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += entry.num_bytes
  return shards
