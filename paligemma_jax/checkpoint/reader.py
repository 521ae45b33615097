"""What every reader of weights gives: names, shapes and dtypes first, data later in blocks.

And safetensors files, read strictly: every byte belongs to exactly one tensor of a known dtype.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import strict_json

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BLOCK_BYTES = 64 << 20  # Host memory that reading takes beside the parameters themselves.

# (view, read): fills the view with bytes of a file, by calls read(offset, part of the view).
Fill = Callable[[memoryview, Callable[[int, memoryview], None]], None]


def fill_alone(view: memoryview, read: Callable[[int, memoryview], None]) -> None:
  """This host reads all of it; see `shared_reading` for several."""
  read(0, view)


@dataclasses.dataclass(frozen=True)
class Entry:
  """Shape and stored dtype of one parameter, as the header says."""

  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def num_bytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Weights:
  """An opened file or directory of weights: headers are checked, no data is read yet.

  Attributes:
    path: what was opened.
    kind: "npz", "hf", "native", "run" or "peft".
    entries: {our parameter name: Entry}.
    sizes: {"img": …, "llm": …, "res": …}, see `param_table.sizes_of`.
    tokenizer: the SentencePiece file found with the weights, or None.
    blocks: name -> iterator over consecutive blocks of the array along its first dimension, in
      order, in the stored dtype. A block is valid only until the next one is asked for. Raises
      CheckpointError on damaged data, at the latest when the iterator ends. Its keyword `fill`
      says how bytes are read; arrays of a run and a deflated npz are read whole by every host.
    restore: of a run whose parameters are stored as published: {name: ShapeDtypeStruct with a
      sharding} -> the arrays on their devices, of which every host reads its shards; else None.
    image_token: the id that stands for image tokens in a Hugging Face directory; 0: not said.
    folder: that directory, whose small files an export carries over; or None.
    base: what adapters were merged into; or None.
  """

  path: pathlib.Path
  kind: str
  entries: Mapping[str, Entry]
  sizes: Mapping[str, Any]
  tokenizer: pathlib.Path | None
  blocks: Callable[..., Iterator[np.ndarray]]
  image_token: int = 0
  folder: pathlib.Path | None = None
  base: pathlib.Path | None = None
  restore: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

  def read(self, name: str, *, fill: Fill = fill_alone) -> np.ndarray:
    """The whole array `name` in its stored dtype."""
    entry = self.entries[name]
    array, row = None, 0
    for block in self.blocks(name, fill=fill):
      # Only now: a header may claim what no file holds.
      array = np.empty(entry.shape, entry.dtype) if array is None else array
      array[row : row + len(block)] = block
      row += len(block)
    return np.empty(entry.shape, entry.dtype) if array is None else array


def rows_per_block(shape: tuple[int, ...], itemsize: int) -> int:
  """How many rows (slices along the first dimension) make a block of about BLOCK_BYTES."""
  return max(1, BLOCK_BYTES // max(1, math.prod(shape[1:]) * itemsize))


def read_json(path: pathlib.Path, *, max_bytes: int = strict_json.MAX_BYTES) -> dict[str, Any]:
  """The JSON object in a small file; CheckpointError when it is something else."""
  try:
    return strict_json.read_object(path, max_bytes=max_bytes)
  except (OSError, strict_json.Malformed) as e:
    raise errors.CheckpointError(
      f"{path}: is no valid JSON object: {strict_json.reason(e)}.{file_checks.of_file(path)}"
    ) from None


def open_file(path: pathlib.Path) -> io.BufferedReader:
  """The regular file `path`, open for reading; CheckpointError when it is something else."""
  with _opening(path):
    file = atomic_io.open_regular(path)
    found, remedy = file_checks.not_downloaded(file.read(file_checks.HEAD_BYTES))
    file.seek(0)
  if found:
    file.close()
    raise errors.CheckpointError(f"{path}: is {found}. {remedy}.")
  return file


def open_again(path: pathlib.Path) -> io.BufferedReader:
  """The file that `open_file` has looked at before: of one in a bucket nothing is fetched yet."""
  with _opening(path):
    return atomic_io.open_regular(path)


@contextlib.contextmanager
def _opening(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except (OSError, ValueError) as e:
    raise errors.CheckpointError(f"{path}: cannot be opened: {strict_json.reason(e)}.") from None


DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": BFLOAT16,
}
_OF_BUFFERS = {
  **DTYPES,
  **{f"{k}{8 * n}": np.dtype(f"{k.lower()}{n}") for k in "IU" for n in (1, 2, 4, 8)},
  "F64": np.dtype(np.float64),
  "BOOL": np.dtype(np.bool_),
}
METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where one tensor lies in a safetensors file."""

  path: pathlib.Path
  start: int  # Bytes from the start of the file.
  entry: Entry


def safetensors_header(
  path: str | os.PathLike, *, buffers: re.Pattern[str] | None = None
) -> dict[str, Tensor]:
  """{name: Tensor} of one file; its data is not read.

  Args:
    buffers: tensors whose name this finds are left out; they may have other dtypes.

  Raises:
    CheckpointError: the header is damaged, of an unknown dtype, or does not cover the file exactly.
  """
  path = bucket.path(path)
  with open_file(path) as file:
    file_bytes = atomic_io.size_of(file)
    header_len = int.from_bytes(file.read(8), "little")
    # The header of a 28B model is below 1 MB.
    if file_bytes < 8 or header_len > min(strict_json.MAX_BYTES, file_bytes - 8):
      raise errors.CheckpointError(
        f"{path}: claims a header of {header_len} bytes in a file of {file_bytes}: truncated, or"
        " no safetensors file."
      )
    raw = file.read(header_len)
  try:
    header = strict_json.parse_object(raw)
  except strict_json.Malformed as e:
    raise errors.CheckpointError(f"{path}: is no valid JSON object: {e}.") from None
  header.pop(METADATA, None)
  tensors = {}
  for name, fields in header.items():
    is_buffer = buffers is not None and buffers.search(name)
    where = f"{path}: {name!r}"
    tensor = _tensor(fields, path, 8 + header_len, _OF_BUFFERS if is_buffer else DTYPES, where)
    if tensor.start + tensor.entry.num_bytes > file_bytes:
      raise errors.CheckpointError(f"{where} reaches beyond the end: truncated.")
    tensors[name] = tensor
  at = 8 + header_len
  # Empty tensors come before the one they touch.
  for name, tensor in sorted(tensors.items(), key=lambda x: (x[1].start, x[1].entry.num_bytes)):
    if tensor.start != at:
      what = "overlaps another tensor" if tensor.start < at else "follows a hole"
      raise errors.CheckpointError(f"{path}: {name!r} {what}: damaged.")
    at += tensor.entry.num_bytes
  if at != file_bytes:
    raise errors.CheckpointError(f"{path}: {file_bytes - at} bytes at its end belong to no tensor.")
  return {n: t for n, t in tensors.items() if buffers is None or not buffers.search(n)}


def rows(tensor: Tensor, start: int, stop: int, *, fill: Fill = fill_alone) -> np.ndarray:
  """The rows [start, stop) of a tensor, in its stored dtype."""
  shape = tensor.entry.shape
  block = np.empty((stop - start, *shape[1:]), tensor.entry.dtype)
  row_bytes = math.prod(shape[1:]) * tensor.entry.dtype.itemsize
  view = block.reshape(-1).view(np.uint8).data
  with open_again(tensor.path) as file:

    def read(at: int, part: memoryview) -> None:
      file.seek(tensor.start + start * row_bytes + at)
      if file.readinto(part) < len(part):
        raise errors.CheckpointError(f"{tensor.path}: became shorter while it was read.")

    fill(view, read)
  return block


def row_blocks(tensor: Tensor, num_rows: int, *, fill: Fill = fill_alone) -> Iterator[np.ndarray]:
  """The first `num_rows` rows of a tensor in blocks."""
  step = rows_per_block(tensor.entry.shape, tensor.entry.dtype.itemsize)
  for start in range(0, num_rows, step):
    yield rows(tensor, start, min(start + step, num_rows), fill=fill)


def _tensor(
  fields: Any, path: pathlib.Path, data_start: int, dtypes: Mapping[str, np.dtype], where: str
) -> Tensor:
  """The tensor that the fields of a header describe."""
  if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
    raise errors.CheckpointError(f"{where} has a damaged header: {str(fields)[:100]}.")
  dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
  if not isinstance(dtype, str) or dtype not in dtypes:
    raise errors.CheckpointError(f"{where} has dtype {dtype!r}; weights are F32, BF16 or F16.")
  for numbers in (shape, offsets):
    good = isinstance(numbers, list) and all(type(n) is int for n in numbers)
    if not good or not all(0 <= n < 1 << 48 for n in numbers):
      raise errors.CheckpointError(f"{where} has a damaged header: {str(fields)[:100]}.")
  entry = Entry(tuple(shape), dtypes[dtype])
  if len(offsets) != 2 or offsets[1] - offsets[0] != entry.num_bytes:
    raise errors.CheckpointError(
      f"{where} is {dtype}{shape}, that is {entry.num_bytes} bytes, but lies at {offsets}."
    )
  return Tensor(path, data_start + offsets[0], entry)
