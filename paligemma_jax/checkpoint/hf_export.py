"""Weights out, as a Hugging Face directory that transformers loads: streamed and atomic."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import hf_vocabulary
from paligemma_jax.checkpoint import npz_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import atomic_io
from paligemma_jax.models import params as param_table

_SHARD_BYTES = 5 << 30


def save_hf(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  sizes: Mapping[str, Any],
  *,
  dtype: Any = None,
  image_token: int = 0,
  files: Mapping[str, bytes] | None = None,
  shard_bytes: int = _SHARD_BYTES,
) -> pathlib.Path:
  """Writes the directory `path`, which must not exist; it appears complete or not at all.

  It holds config.json and one or several safetensors under the names of the hub's files, and what
  the caller puts beside them. As in released files the embedding is padded to a multiple of 64 by
  its mean row, which is never the most probable token, so that the id of image tokens has a row.

  Args:
    params: {published name: array}.
    sizes: as in `names.sizes_of`.
    dtype: float32, bfloat16 or float16 of all of them; None keeps each one's own.
    image_token: the id that stands for image tokens; 0: the one of released files.
    files: content of further files, by their names.
    shard_bytes: a file is ended before it grows beyond this.

  Raises:
    CheckpointError: `path` exists, cannot be written, or the parameters do not fit the sizes.
  """
  path = pathlib.Path(path)
  param_table.only_published(params, str(path))
  param_table.check(
    {n: tuple(a.shape) for n, a in params.items()}, param_table.shapes(sizes), str(path)
  )
  image_token = image_token or default_image_token(sizes["llm"]["vocab_size"])
  rows = hf_vocabulary.num_rows(sizes["llm"]["vocab_size"], image_token)
  tensors = _tensors(params, sizes, dtype, rows)
  stored = np.result_type(*{t.entry.dtype for t in tensors.values()})
  with npz_export.new_folder(path) as folder:
    shards = _shards(tensors, shard_bytes)
    weight_map = {}
    for i, shard in enumerate(shards):
      last = f"{i + 1:05d}-of-{len(shards):05d}"
      file = "model.safetensors" if len(shards) == 1 else f"model-{last}.safetensors"
      blocks = {name: (tensors[name].entry, tensors[name].blocks()) for name in shard}
      safetensors.write(folder / file, blocks)
      weight_map.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
      total = sum(t.entry.num_bytes for t in tensors.values())
      index = {"metadata": {"total_size": total}, "weight_map": weight_map}
      _write_json(folder / "model.safetensors.index.json", index)
    config = hf_config.config_of(sizes, str(stored), image_token, rows)
    _write_json(folder / "config.json", config)
    for name, content in (files or {}).items():
      atomic_io.write_new(folder / name, content)
  return path


def default_image_token(num_words: int) -> int:
  """The id of image tokens where nothing says it: the released one, or the one behind the last."""
  return min(num_words, hf_vocabulary.RELEASED)


class _Tensor:
  """One of their tensors, made from a part of one of ours when it is written."""

  def __init__(self, name, array, layer, part, pattern, dims, dtype):
    self._name, self._array, self._layer, self._part = name, array, layer, part
    self._pattern, self._dims = pattern, dims
    shape = param_table.their_shape(pattern, dims)
    self.entry = reader.Entry(shape, npz_export.storable(array.dtype if dtype is None else dtype))

  def blocks(self) -> Iterator[np.ndarray]:
    """Its rows, in order."""
    ours = self._array
    if self._pattern == "V D -> V D":
      yield from self._embedding()
      return
    ours = ours if self._layer is None else ours[self._layer]
    ours = np.asarray(ours if self._part is None else ours[self._part])
    theirs = param_table.to_theirs(ours, self._pattern, self._dims)
    yield npz_export.as_stored(theirs, self.entry.dtype, self._name)

  def _embedding(self) -> Iterator[np.ndarray]:
    """The table in blocks, and then its mean as often as rows are to be filled up."""
    ours, total = self._array, 0.0
    step = reader.rows_per_block(tuple(ours.shape), ours.dtype.itemsize)
    for row in range(0, ours.shape[0], step):
      block = np.asarray(ours[row : row + step])
      total = total + block.sum(axis=0, dtype=np.float64)
      yield npz_export.as_stored(block, self.entry.dtype, self._name)
    spare = self.entry.shape[0] - ours.shape[0]
    mean = np.asarray(total / ours.shape[0], np.float32)[None]
    yield np.repeat(npz_export.as_stored(mean, self.entry.dtype, self._name), spare, axis=0)


def _tensors(params, sizes, dtype, rows) -> dict[str, _Tensor]:
  """{their name: _Tensor}; the embedding has `rows`."""
  dims = param_table.dims_of(sizes) | {"V": rows}
  tensors = {}
  for name, row in param_table.rows(sizes).items():
    array = params[name]
    layers = range(array.shape[0]) if "{i}" in row.hf[0] else (None,)
    for layer in layers:
      for part, their in enumerate(row.hf):
        index = part if len(row.hf) > 1 else None
        tensors[their.format(i=layer)] = _Tensor(name, array, layer, index, row.layout, dims, dtype)
  return tensors


def _shards(tensors: Mapping[str, _Tensor], shard_bytes: int) -> list[list[str]]:
  shards, used = [[]], 0
  for name, tensor in tensors.items():
    if shards[-1] and used + tensor.entry.num_bytes > shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += tensor.entry.num_bytes
  return shards


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  atomic_io.write_new(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
