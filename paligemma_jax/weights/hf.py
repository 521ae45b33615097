"""Hugging Face directories of PaliGemma 1 and 2: config.json and one or several safetensors."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.weights import hf_config
from paligemma_jax.weights import hf_names
from paligemma_jax.weights import names
from paligemma_jax.weights import published
from paligemma_jax.weights import reader
from paligemma_jax.weights import safetensors

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
# Released embeddings are padded: the row after the vocabulary is the <image> placeholder.
_PADDED_VOCAB = {257_216: 257_152}


def open_hf(path: str | os.PathLike) -> reader.Weights:
  """Opens a directory as transformers writes it; all headers are checked against config.json.

  Raises:
    CheckpointError: a file is missing, damaged or of another model; all differences are listed.
  """
  path = pathlib.Path(path)
  config = _read_json(path / "config.json")
  sizes = hf_config.sizes_of(config, str(path / "config.json"))
  llm = sizes["llm"]
  stored_vocab = llm["vocab_size"]
  found = _tensors(path)
  if hf_names.EMBEDDING in found and found[hf_names.EMBEDDING].entry.shape:
    # config.json is not always told about the padding.
    num_rows = found[hf_names.EMBEDDING].entry.shape[0]
    if _PADDED_VOCAB.get(num_rows, num_rows) == _PADDED_VOCAB.get(stored_vocab, stored_vocab):
      stored_vocab = num_rows
  llm["vocab_size"] = _PADDED_VOCAB.get(stored_vocab, stored_vocab)
  dims = names.dims_of(sizes)
  table = hf_names.table(
      fused=llm["num_heads"] == llm["num_kv_heads"], post_norms=llm["post_norms"]
  )
  _check(found, table, {**dims, "V": stored_vocab, "q": dims["p"]}, str(path))
  layouts = {
      name: _Layout(theirs, pattern, {**dims, "q": dims["p"]}, found)
      for name, (theirs, pattern) in table.items()
  }
  shapes = names.shapes(sizes)
  return reader.Weights(
      path=path,
      kind="hf",
      entries={name: reader.Entry(shapes[name], layouts[name].dtype) for name in table},
      sizes=sizes,
      tokenizer=published.find_tokenizer(path),
      blocks=lambda name: layouts[name].blocks(shapes[name]),
  )


class _Layout:
  """The tensors that make one of our parameters, and how."""

  def __init__(
      self,
      theirs: list[str],
      pattern: str,
      dims: Mapping[str, int],
      found: Mapping[str, safetensors.Tensor],
  ):
    self._theirs = theirs
    self._pattern = pattern
    self._dims = dims
    self._found = found
    dtypes = {found[name.format(i=0)].entry.dtype for name in theirs}
    # Mixed precisions meet in the one that holds them all.
    self.dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

  def blocks(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Our array in blocks: one layer at a time, or rows of the embedding."""
    if self._theirs == [hf_names.EMBEDDING]:
      yield from self._embedding(shape[0])
      return
    layered = "{i}" in self._theirs[0]
    for i in range(shape[0] if layered else 1):
      parts = []
      for name in self._theirs:
        tensor = self._found[name.format(i=i)]
        array = safetensors.rows(tensor, 0, tensor.entry.shape[0])
        parts.append(hf_names.to_ours(array, self._pattern, self._dims))
      block = parts[0] if len(parts) == 1 else np.stack(parts)
      yield block[None] if layered else block

  def _embedding(self, num_rows: int) -> Iterator[np.ndarray]:
    head = self._found.get(hf_names.LM_HEAD)
    blocks = safetensors.row_blocks(self._found[hf_names.EMBEDDING], num_rows)
    if head is None:
      yield from blocks
      return
    for block, copy in zip(blocks, safetensors.row_blocks(head, num_rows), strict=True):
      if not np.array_equal(block, copy):
        raise errors.CheckpointError(
            f"{head.path}: lm_head differs from the embedding; PaliGemma ties the two."
        )
      yield block


def _check(
    found: Mapping[str, safetensors.Tensor],
    table: Mapping[str, tuple[list[str], str]],
    dims: Mapping[str, int],
    where: str,
) -> None:
  expected = {}
  for name, (theirs, pattern) in table.items():
    depth = dims[names.TABLE[name].split()[0]] if "{i}" in theirs[0] else 1
    for their in theirs:
      for i in range(depth):
        expected[their.format(i=i)] = hf_names.their_shape(pattern, dims)
  if hf_names.LM_HEAD in found:
    expected[hf_names.LM_HEAD] = expected[hf_names.EMBEDDING]
  names.check({name: tensor.entry.shape for name, tensor in found.items()}, expected, where)


def _tensors(path: pathlib.Path) -> dict[str, safetensors.Tensor]:
  """{canonical name: tensor} of the single file, or of all shards of the index."""
  found: dict[str, safetensors.Tensor] = {}
  if (path / _SINGLE).exists():
    _add(found, safetensors.read_header(path / _SINGLE), path)
    return found
  if not (path / _INDEX).exists():
    raise errors.CheckpointError(
        f"{path}: holds neither {_SINGLE} nor {_INDEX}; weights in other formats (*.bin are"
        " pickles) are not read."
    )
  weight_map = _read_json(path / _INDEX).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise errors.CheckpointError(f"{path / _INDEX}: has no 'weight_map'.")
  shards: dict[str, set[str]] = {}
  for name, shard in weight_map.items():
    # A plain name cannot leave the directory; the file itself may be a link, as in the hub's cache.
    if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
      raise errors.CheckpointError(
          f"{path / _INDEX}: {name!r} lies in {shard!r}; expected the plain name of a .safetensors"
          " file in the same directory."
      )
    shards.setdefault(shard, set()).add(name)
  for shard, listed in sorted(shards.items()):
    tensors = safetensors.read_header(path / shard)
    if set(tensors) != listed:
      odd = sorted(set(tensors) ^ listed)
      raise errors.CheckpointError(
          f"{path / shard}: differs from {_INDEX} in {len(odd)} names, the first is {odd[0]!r}."
      )
    _add(found, tensors, path)
  return found


def _add(found: dict, tensors: Mapping[str, safetensors.Tensor], path: pathlib.Path) -> None:
  for name, tensor in tensors.items():
    key = hf_names.canonical(name)
    if key in found:
      raise errors.CheckpointError(f"{path}: {name!r} is there twice, under two spellings.")
    found[key] = tensor


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  return reader.read_json(path)
