"""Hugging Face directories of PaliGemma 1 and 2: config.json and one or several safetensors."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import hf_names
from paligemma_jax.checkpoint import hf_tensors
from paligemma_jax.checkpoint import hf_vocabulary
from paligemma_jax.checkpoint import published
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import errors
from paligemma_jax.models import params as param_table


def open_hf(path: str | os.PathLike) -> reader.Weights:
  """Opens a directory as transformers writes it; all headers are checked against config.json.

  Raises:
    CheckpointError: a file is missing, damaged or of another model; all differences are listed.
  """
  path = pathlib.Path(path)
  config = reader.read_json(path / "config.json")
  sizes = hf_config.sizes_of(config, str(path / "config.json"))
  llm = sizes["llm"]
  table = hf_names.table(
      fused=llm["num_heads"] == llm["num_kv_heads"], post_norms=llm["post_norms"]
  )
  dims = param_table.dims_of(sizes)
  found = hf_tensors.find(
      path, lambda tensors: _check(tensors, table, _stored(dims, tensors), str(path))
  )
  llm["vocab_size"] = hf_vocabulary.num_words(path, config, found[hf_names.EMBEDDING])
  layouts = {
      name: _Layout(theirs, pattern, {**dims, "q": dims["p"]}, found)
      for name, (theirs, pattern) in table.items()
  }
  shapes = param_table.shapes(sizes)
  return reader.Weights(
      path=path,
      kind="hf",
      entries={name: reader.Entry(shapes[name], layouts[name].dtype) for name in table},
      sizes=sizes,
      tokenizer=published.find_tokenizer(path),
      blocks=lambda name: layouts[name].blocks(shapes[name]),
      image_token=_image_token(config),
      folder=path,
  )


def _stored(dims: Mapping[str, int], found: hf_tensors.Tensors) -> dict[str, int]:
  """The dims that the stored tensors should have; config.json is not always told of padding."""
  told, words = dims["V"], hf_vocabulary.RELEASED
  embedding = found.get(hf_names.EMBEDDING)
  rows = embedding.entry.shape[0] if embedding is not None and embedding.entry.shape else told
  both = {words, hf_vocabulary.num_rows(words, words)}
  return {**dims, "V": rows if {told, rows} == both else told, "q": dims["p"]}


def _image_token(config: Mapping[str, Any]) -> int:
  """The id that stands for image tokens, under either name; 0 where config.json has none."""
  for key in ("image_token_index", "image_token_id"):
    if type(config.get(key)) is int and config[key] > 0:
      return config[key]
  return 0


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
    depth = dims[param_table.TABLE[name].split()[0]] if "{i}" in theirs[0] else 1
    for their in theirs:
      for i in range(depth):
        expected[their.format(i=i)] = hf_names.their_shape(pattern, dims)
  if hf_names.LM_HEAD in found:
    expected[hf_names.LM_HEAD] = expected[hf_names.EMBEDDING]
  param_table.check({name: tensor.entry.shape for name, tensor in found.items()}, expected, where)
