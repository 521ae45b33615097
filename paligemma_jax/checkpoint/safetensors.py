"""safetensors files, read strictly: every byte belongs to exactly one tensor of a known dtype.

They are written that way too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": reader.BFLOAT16,
}
_OF_BUFFERS = {
  **DTYPES,
  **{f"{k}{8 * n}": np.dtype(f"{k.lower()}{n}") for k in "IU" for n in (1, 2, 4, 8)},
  "F64": np.dtype(np.float64),
  "BOOL": np.dtype(np.bool_),
}
_MAX_HEADER = strict_json.MAX_BYTES  # A 28B model's is below 1 MB.
_METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where one tensor lies."""

  path: pathlib.Path
  start: int  # Bytes from the start of the file.
  entry: reader.Entry


def read_header(
  path: str | os.PathLike, *, buffers: re.Pattern[str] | None = None
) -> dict[str, Tensor]:
  """{name: Tensor} of one file; its data is not read.

  Args:
    buffers: tensors whose name this finds are left out; they may have other dtypes.

  Raises:
    CheckpointError: the header is damaged, of an unknown dtype, or does not cover the file exactly.
  """
  path = pathlib.Path(path)
  file_bytes = reader.regular_file(path)
  with reader.open_file(path) as file:
    header_len = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 or header_len > min(_MAX_HEADER, file_bytes - 8):
      raise errors.CheckpointError(
        f"{path}: claims a header of {header_len} bytes in a file of {file_bytes}: truncated, or"
        " no safetensors file."
      )
    raw = file.read(header_len)
  header = parse_json(raw, str(path))
  header.pop(_METADATA, None)
  data_start = 8 + header_len
  tensors = {}
  for name, fields in header.items():
    is_buffer = buffers is not None and buffers.search(name)
    dtypes = _OF_BUFFERS if is_buffer else DTYPES
    entry, (start, end) = _entry(fields, f"{path}: {name!r}", dtypes)
    if end > file_bytes - data_start:
      raise errors.CheckpointError(f"{path}: {name!r} reaches beyond the end: truncated.")
    tensors[name] = Tensor(path, data_start + start, entry)
  at = data_start
  for name, tensor in sorted(tensors.items(), key=_place):
    if tensor.start != at:
      what = "overlaps another tensor" if tensor.start < at else "follows a hole"
      raise errors.CheckpointError(f"{path}: {name!r} {what}: damaged.")
    at += tensor.entry.num_bytes
  if at != file_bytes:
    raise errors.CheckpointError(f"{path}: {file_bytes - at} bytes at its end belong to no tensor.")
  return {n: t for n, t in tensors.items() if buffers is None or not buffers.search(n)}


def rows(tensor: Tensor, start: int, stop: int) -> np.ndarray:
  """The rows [start, stop) of a tensor, in its stored dtype."""
  shape = tensor.entry.shape
  block = np.empty((stop - start, *shape[1:]), tensor.entry.dtype)
  row_bytes = math.prod(shape[1:]) * tensor.entry.dtype.itemsize
  view = block.reshape(-1).view(np.uint8).data
  with reader.open_file(tensor.path) as file:
    file.seek(tensor.start + start * row_bytes)
    at = 0
    while at < len(view):
      num_read = file.readinto(view[at:])
      if not num_read:
        raise errors.CheckpointError(f"{tensor.path}: became shorter while it was read.")
      at += num_read
  return block


def row_blocks(tensor: Tensor, num_rows: int) -> Iterator[np.ndarray]:
  """The first `num_rows` rows of a tensor in blocks."""
  step = reader.rows_per_block(tensor.entry.shape, tensor.entry.dtype.itemsize)
  for start in range(0, num_rows, step):
    yield rows(tensor, start, min(start + step, num_rows))


def write(
  path: pathlib.Path, tensors: Mapping[str, tuple[reader.Entry, Iterable[np.ndarray]]]
) -> None:
  """Writes one file and syncs it to disk.

  Args:
    tensors: {name: what it is, its rows in blocks of that dtype}.
  """
  kinds = {dtype: kind for kind, dtype in DTYPES.items()}
  header: dict[str, dict[str, Any]] = {_METADATA: {"format": "pt"}}
  at = 0
  for name, (entry, _) in tensors.items():
    end = at + entry.num_bytes
    header[name] = {
      "dtype": kinds[entry.dtype],
      "shape": list(entry.shape),
      "data_offsets": [at, end],
    }
    at = end
  raw = json.dumps(header).encode()
  raw += b" " * (-len(raw) % 8)  # So that the data is aligned.
  with atomic_io.open_new(path) as file:
    file.write(len(raw).to_bytes(8, "little") + raw)
    for _, blocks in tensors.values():
      for block in blocks:
        file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
  atomic_io.sync(path)


def parse_json(raw: bytes, where: str) -> dict[str, Any]:
  """A JSON object without duplicate keys, or a CheckpointError."""
  try:
    return strict_json.parse_object(raw)
  except strict_json.Malformed as e:
    raise errors.CheckpointError(f"{where}: is no valid JSON object: {e}.") from None


def _place(item: tuple[str, Tensor]) -> tuple[int, int]:
  return item[1].start, item[1].entry.num_bytes  # Empty tensors come before the one they touch.


def _entry(
  fields: Any, where: str, dtypes: Mapping[str, np.dtype]
) -> tuple[reader.Entry, tuple[int, int]]:
  if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
    raise errors.CheckpointError(f"{where} has a damaged header: {str(fields)[:100]}.")
  dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
  if not isinstance(dtype, str) or dtype not in dtypes:
    raise errors.CheckpointError(f"{where} has dtype {dtype!r}; weights are F32, BF16 or F16.")
  for numbers in (shape, offsets):
    whole = isinstance(numbers, list) and all(type(n) is int for n in numbers)
    if not whole or not all(0 <= n < 1 << 48 for n in numbers):
      raise errors.CheckpointError(f"{where} has a damaged header: {str(fields)[:100]}.")
  entry = reader.Entry(tuple(shape), dtypes[dtype])
  if len(offsets) != 2 or offsets[1] - offsets[0] != entry.num_bytes:
    raise errors.CheckpointError(
      f"{where} is {dtype}{shape}, that is {entry.num_bytes} bytes, but lies at {offsets}."
    )
  return entry, (offsets[0], offsets[1])
