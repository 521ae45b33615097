"""What every reader of weights gives: names, shapes and dtypes first, data later in blocks."""

from __future__ import annotations

import dataclasses
import io
import math
import pathlib
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import strict_json

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MAX_SMALL_BYTES = 16 << 20  # Of a tokenizer, say; Gemma's has 4 MB.
BLOCK_BYTES = 64 << 20  # Host memory that reading takes beside the parameters themselves.


@dataclasses.dataclass(frozen=True)
class Entry:
  """Shape and stored dtype of one parameter, as the header says."""

  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def num_bytes(self) -> int:
    """Bytes of the array's data."""
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Weights:
  """An opened file or directory of weights: headers are checked, no data is read yet.

  Attributes:
    path: what was opened.
    kind: "npz", "hf", "native", "run" or "peft".
    entries: {our parameter name: Entry}.
    sizes: {"img": …, "llm": …, "res": …}, see `params.sizes_of`.
    tokenizer: the SentencePiece file found with the weights, or None.
    blocks: name -> iterator over consecutive blocks of the array along its first dimension, in
      order, in the stored dtype. A block is valid only until the next one is asked for. Raises
      CheckpointError on damaged data, at the latest when the iterator ends.
    image_token: the id that stands for image tokens in a Hugging Face directory; 0: not said.
    folder: that directory, whose small files an export carries over; or None.
  """

  path: pathlib.Path
  kind: str
  entries: Mapping[str, Entry]
  sizes: Mapping[str, Any]
  tokenizer: pathlib.Path | None
  blocks: Callable[[str], Iterator[np.ndarray]]
  image_token: int = 0
  folder: pathlib.Path | None = None

  def read(self, name: str) -> np.ndarray:
    """The whole array `name` in its stored dtype."""
    entry = self.entries[name]
    array, row = None, 0
    for block in self.blocks(name):
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
  try:
    file = atomic_io.open_regular(path)
    found, remedy = file_checks.not_downloaded(file.read(file_checks.HEAD_BYTES))
    file.seek(0)
  except OSError as e:
    raise errors.CheckpointError(f"{path}: cannot be opened: {strict_json.reason(e)}.") from None
  if found:
    file.close()
    raise errors.CheckpointError(f"{path}: is {found}. {remedy}.")
  return file


def regular_file(path: pathlib.Path) -> int:
  """The size in bytes of the regular file `path`; CheckpointError when it is something else."""
  try:
    status = path.stat()
  except (OSError, ValueError) as e:
    raise errors.CheckpointError(f"{path}: cannot be opened: {e}.") from None
  if not stat.S_ISREG(status.st_mode):
    raise errors.CheckpointError(f"{path}: is not a regular file.")
  return status.st_size
