"""Weights out, in the published npz format: streamed, bit-exact at equal dtype, and atomic."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.models import param_table

_DESCR = {np.dtype(np.float32): "<f4", np.dtype(np.float16): "<f2", reader.BFLOAT16: "|V2"}
_DATE = (1980, 1, 1, 0, 0, 0)  # No time in the file: equal weights make equal bytes.


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
    dtype: float32, bfloat16 or float16 for all of them; None keeps each one's own.
    sizes: of the model, as in `params.sizes_of`; what the format cannot hold of them goes into a
      file beside it, see `npz.write_sizes`. None: nothing is known but names and shapes.

  Raises:
    CheckpointError: names or shapes of no PaliGemma, a dtype that the format or a number has no
      place in, or the file cannot be written.
  """
  path = pathlib.Path(path)
  param_table.only_published(params, str(path))
  inferred = param_table.sizes_of(
    {name: tuple(array.shape) for name, array in params.items()}, str(path)
  )
  for name, array in params.items():
    storable(array.dtype if dtype is None else dtype, name)
  with replacing(path) as partial:
    with (
      atomic_io.open_new(partial) as file,
      zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
      for name in sorted(params):
        _write(archive, name, params[name], dtype)
    if sizes is not None:
      npz.write_sizes(path, sizes, inferred)
  return path


def storable(dtype: Any, name: str = "weights") -> np.dtype:
  """The numpy dtype, or a CheckpointError when the npz format has no place for it."""
  try:
    target = np.dtype(reader.BFLOAT16 if dtype == "bfloat16" else dtype)
  except TypeError:
    target = None
  if target not in _DESCR:
    raise errors.CheckpointError(
      f"{name}: cannot be stored as {dtype}; expected float32, bfloat16 or float16."
    )
  return target


def as_stored(block: Any, target: np.dtype, name: str) -> np.ndarray:
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


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary path beside `path` that takes its place, on disk, when the body succeeds.

  It is to be opened by `atomic_io.open_new`, which removes what a killed process left of it.
  """
  partial = path.with_name(f".{path.name}.partial")
  try:
    yield partial
    atomic_io.sync(partial)
    os.replace(partial, path)
    atomic_io.sync(path.parent)
  except OSError as e:
    raise errors.CheckpointError(f"{path}: cannot be written: {e}.") from e
  finally:
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary folder beside `path` that becomes `path`, on disk, when the body succeeds.

  Raises:
    CheckpointError: `path` exists, or cannot be written.
  """
  if path.exists():
    raise errors.CheckpointError(f"{path}: exists; remove it or save to another name.")
  partial = path.with_name(f".{path.name}.partial")
  try:
    atomic_io.remove(partial)  # What a killed process left.
    partial.mkdir(parents=True)
    yield partial
    atomic_io.sync(partial)
    os.rename(partial, path)
    atomic_io.sync(path.parent)
  except OSError as e:
    raise errors.CheckpointError(f"{path}: cannot be written: {e}.") from e
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _write(archive: zipfile.ZipFile, name: str, array: Any, dtype: Any) -> None:
  target = storable(array.dtype if dtype is None else dtype, name)
  member = zipfile.ZipInfo(f"{param_table.PREFIX}{name}.npy", _DATE)
  with archive.open(member, "w", force_zip64=True) as file:
    file.write(_header(tuple(array.shape), target))
    step = reader.rows_per_block(tuple(array.shape), array.dtype.itemsize)
    whole = np.asarray(array) if _on_host(array) else None
    for row in range(0, array.shape[0], step):
      part = array[row : row + step] if whole is None else whole[row : row + step]
      block = np.ascontiguousarray(as_stored(part, target, name))
      file.write(block.reshape(-1).view(np.uint8).data)


def _on_host(array: Any) -> bool:
  """True where a numpy view of the whole array costs no copy (numpy, or one CPU device)."""
  if isinstance(array, np.ndarray):
    return True
  devices = array.devices() if hasattr(array, "devices") else ()
  return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  """A version 1.0 npy header, padded to 64 bytes as numpy does."""
  text = f"{{'descr': {_DESCR[dtype]!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
  pad = -(len(npz.MAGIC) + 4 + len(text) + 1) % 64
  body = (text + " " * pad + "\n").encode("latin1")
  return npz.MAGIC + b"\x01\x00" + struct.pack("<H", len(body)) + body
