"""Hugging Face directories of PaliGemma 1 and 2: config.json and one or several safetensors."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import errors
from paligemma_jax.models import param_table


def open_hf(path: str | os.PathLike, fresh: Collection[str] = ()) -> reader.Weights:
  """Opens a directory as transformers writes it; all headers are checked against config.json.

  Args:
    fresh: names of ours that are not read, and may be missing or of any shape.

  Raises:
    CheckpointError: a file is missing, damaged or of another model; all differences are listed.
  """
  path = pathlib.Path(path)
  config = reader.read_json(path / "config.json")
  sizes = hf_config.sizes_of(config, str(path / "config.json"))
  llm = sizes["llm"]
  table = {name: row for name, row in param_table.rows(sizes).items() if name not in fresh}
  dims = param_table.dims_of(sizes)
  found = find(
    path, lambda tensors: _check(tensors, sizes, fresh, _stored(dims, tensors), str(path))
  )
  if param_table.INPUT_EMBEDDING in table:
    llm["vocab_size"] = vocab_size(path, config, found[param_table.EMBEDDING])
  layouts = {name: _Layout(row, dims, found) for name, row in table.items()}
  shapes = param_table.shapes(sizes)
  return reader.Weights(
    path=path,
    kind="hf",
    entries={name: reader.Entry(shapes[name], layouts[name].dtype) for name in table},
    sizes=sizes,
    tokenizer=hub.find_tokenizer(path),
    blocks=lambda name: layouts[name].blocks(shapes[name]),
    image_token=_image_token(config),
    folder=path,
  )


def _stored(dims: Mapping[str, int], found: Tensors) -> dict[str, int]:
  """The dims that the stored tensors should have; config.json may leave out padding."""
  embedding = found.get(param_table.EMBEDDING)
  if embedding is not None and embedding.entry.shape:
    rows = embedding.entry.shape[0]
    if {dims["V"], rows} == {RELEASED, num_rows(RELEASED, RELEASED)}:
      return {**dims, "V": rows}
  return dict(dims)


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
    row: param_table.Param,
    dims: Mapping[str, int],
    found: Mapping[str, safetensors.Tensor],
  ):
    self._row = row
    self._dims = dims
    self._found = found
    dtypes = {found[name.format(i=0)].entry.dtype for name in row.hf}
    # Mixed precisions meet in the one that holds them all.
    self.dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

  def blocks(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Our array in blocks: one layer at a time, or rows of the embedding."""
    if self._row.hf == (param_table.EMBEDDING,):
      yield from self._embedding(shape[0])
      return
    layered = "{i}" in self._row.hf[0]
    for i in range(shape[0] if layered else 1):
      parts = []
      for name in self._row.hf:
        tensor = self._found[name.format(i=i)]
        array = safetensors.rows(tensor, 0, tensor.entry.shape[0])
        parts.append(param_table.to_ours(array, self._row.layout, self._dims))
      block = parts[0] if len(parts) == 1 else np.stack(parts)
      yield block[None] if layered else block

  def _embedding(self, num_rows: int) -> Iterator[np.ndarray]:
    head = self._found.get(param_table.LM_HEAD)
    blocks = safetensors.row_blocks(self._found[param_table.EMBEDDING], num_rows)
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
  sizes: Mapping[str, Any],
  fresh: Collection[str],
  dims: Mapping[str, int],
  where: str,
) -> None:
  expected = {}
  left_out = {param_table.LM_HEAD} if param_table.INPUT_EMBEDDING in fresh else set()
  for name, row in param_table.rows(sizes).items():
    depth = dims[row.shape[0]] if "{i}" in row.hf[0] else 1
    for their in (t.format(i=i) for t in row.hf for i in range(depth)):
      expected[their] = param_table.their_shape(row.layout, dims)
      if name in fresh:
        left_out.add(their)
  if param_table.LM_HEAD in found:
    expected[param_table.LM_HEAD] = expected[param_table.EMBEDDING]
  shapes = {name: tensor.entry.shape for name, tensor in found.items()}
  param_table.check(shapes, expected, where, left_out)


INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
# What wrappers put in front of every name: data parallelism, torch.compile, PEFT.
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")

Tensors = dict[str, safetensors.Tensor]


def find(path: pathlib.Path, check: Callable[[Tensors], None]) -> Tensors:
  """{canonical name: tensor} of the weights in a directory.

  Where a single file and an index lie beside each other, one of them is left over from before: the
  one that fits is taken, and a warning says so.

  Args:
    check: raises a CheckpointError for tensors that do not fit.

  Raises:
    CheckpointError: no weights, damaged ones, ones that do not fit, or two sets that both do.
  """
  ways = {SINGLE: _single, INDEX: _sharded}
  there = [name for name in ways if (path / name).exists()]
  if not there:
    raise errors.CheckpointError(
      f"{path}: holds neither {SINGLE} nor {INDEX}; weights in other formats (*.bin are"
      " pickles) are not read."
    )
  good: dict[str, Tensors] = {}
  wrong: dict[str, errors.CheckpointError] = {}
  for name in there:
    try:
      tensors = ways[name](path)
      check(tensors)
      good[name] = tensors
    except errors.CheckpointError as e:
      wrong[name] = e
  if not good:
    raise wrong[there[0]]
  if len(good) > 1 and good[SINGLE] != good[INDEX]:
    raise errors.CheckpointError(
      f"{path}: holds {SINGLE} and also {INDEX} with its shards, two sets of weights that both"
      " fit this model. One of them is left over; remove it."
    )
  taken = next(iter(good))
  for name, why in wrong.items():
    reason = str(why).splitlines()[0]
    logging.warning("%s: takes %s; %s does not fit: %s", path, taken, name, reason)
  return good[taken]


def _single(path: pathlib.Path) -> Tensors:
  return _canonical(safetensors.read_header(path / SINGLE, buffers=param_table.BUFFER), path)


def _sharded(path: pathlib.Path) -> Tensors:
  weight_map = reader.read_json(path / INDEX).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise errors.CheckpointError(f"{path / INDEX}: has no 'weight_map'.")
  shards: dict[str, set[str]] = {}
  for name, shard in weight_map.items():
    # A plain name cannot leave the directory; the file itself may be a link, as in the hub's cache.
    if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
      raise errors.CheckpointError(
        f"{path / INDEX}: {name!r} lies in {shard!r}; expected the plain name of a .safetensors"
        " file in the same directory."
      )
    shards.setdefault(shard, set()).add(name)
  found: Tensors = {}
  for shard, listed in sorted(shards.items()):
    tensors = safetensors.read_header(path / shard, buffers=param_table.BUFFER)
    odd = sorted(n for n in set(tensors) ^ listed if not param_table.BUFFER.search(n))
    if odd:
      raise errors.CheckpointError(
        f"{path / shard}: differs from {INDEX} in {len(odd)} names, the first is {odd[0]!r}."
      )
    twice = sorted(found.keys() & tensors.keys())
    if twice:
      raise errors.CheckpointError(f"{path}: {twice[0]!r} is there twice, in two shards.")
    found.update(tensors)
  return _canonical(found, path)


def _canonical(tensors: Mapping[str, safetensors.Tensor], path: pathlib.Path) -> Tensors:
  """The tensors by the names of `param_table`; a tied pair stored once is the embedding."""
  found: Tensors = {}
  for name, tensor in _unwrapped(tensors).items():
    key = param_table.canonical(name)
    if key in found:
      raise errors.CheckpointError(f"{path}: {name!r} is there twice, under two spellings.")
    found[key] = tensor
  if param_table.EMBEDDING not in found and param_table.LM_HEAD in found:
    found[param_table.EMBEDDING] = found.pop(param_table.LM_HEAD)
  return found


def _unwrapped(tensors: Mapping[str, safetensors.Tensor]) -> dict[str, safetensors.Tensor]:
  found = dict(tensors)
  while found:
    prefix = next((w for w in _WRAPPERS if all(name.startswith(w) for name in found)), "")
    if not prefix:
      break
    found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
  return found


IMAGE = "<image>"
RELEASED = 257_152
MULTIPLE = 64
KEY = "_vocab_size"  # Of config.json, as in released files.
_ALIKE = 0.5  # Of the spread of ordinary rows; released rows are within 0.02 of it.
_MAX_JSON_BYTES = 40 << 20  # Gemma's tokenizer.json has 17 to 35 MB.
_MAX_SAMPLE = 4096  # Rows.
_MAX_DIGITS = 19  # Of an id.


def num_rows(vocab_size: int, image_token: int) -> int:
  """How many rows an export's embedding has: one for the image token too, padded to MULTIPLE."""
  needed = max(vocab_size, image_token + 1)
  return needed if image_token < vocab_size else -(-needed // MULTIPLE) * MULTIPLE


def vocab_size(path: pathlib.Path, config: Mapping[str, Any], table: safetensors.Tensor) -> int:
  """How many rows of the stored `table` are vocabulary; a log line says when spare ones are not."""
  rows = table.entry.shape[0]
  words = _without_padding(config, rows)
  if words == rows:
    return rows
  named = {i: t for i, t in added_tokens(path).items() if words <= i < rows and t != IMAGE}
  if named:
    logging.info(
      "%s: keeps all %d rows of the embedding: %r is token %d", path, rows, *_first(named)
    )
    return rows
  if not alike(table, words):
    logging.info(
      "%s: keeps all %d rows of the embedding: those from %d on differ from each other, so they"
      " have been trained",
      path,
      rows,
      words,
    )
    return rows
  logging.info("%s: rows %d to %d only pad the embedding and are left out", path, words, rows - 1)
  return words


def added_tokens(path: pathlib.Path) -> dict[int, str]:
  """{id: text} of the tokens that a directory's tokenizer files name apart from the vocabulary.

  Raises:
    CheckpointError: one of the files is damaged.
  """
  found: dict[int, str] = {}
  if (path / "added_tokens.json").is_file():
    for text, i in reader.read_json(path / "added_tokens.json").items():
      _add(found, i, text, path / "added_tokens.json")
  if (path / "tokenizer_config.json").is_file():
    config = reader.read_json(path / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder") or {}
    for i, token in decoder.items() if isinstance(decoder, dict) else ():
      content = token.get("content") if isinstance(token, dict) else token
      number = int(i) if i.isdecimal() and len(i) < _MAX_DIGITS else i
      _add(found, number, content, path / "tokenizer_config.json")
  if not found and (path / "tokenizer.json").is_file():
    content = reader.read_json(path / "tokenizer.json", max_bytes=_MAX_JSON_BYTES)
    tokens = content.get("added_tokens") or []
    for token in tokens if isinstance(tokens, list) else ():
      token = token if isinstance(token, dict) else {}
      _add(found, token.get("id"), token.get("content"), path / "tokenizer.json")
  return found


def _without_padding(config: Mapping[str, Any], rows: int) -> int:
  words = config.get(KEY, RELEASED)
  padded = type(words) is int and words > 0 and rows == num_rows(words, words)
  return words if padded else rows


def alike(table: safetensors.Tensor, words: int) -> bool:
  """Whether the rows from `words` on are as alike as untrained ones."""
  rows = table.entry.shape[0]
  spare = safetensors.rows(table, words, rows).astype(np.float32)
  sample = safetensors.rows(table, 0, min(words, _MAX_SAMPLE)).astype(np.float32)
  spread = np.sqrt(np.mean(np.var(sample, axis=0)))
  off = np.sqrt(np.mean((spare - np.median(spare, axis=0)) ** 2, axis=1))
  return bool(off.max() <= _ALIKE * spread)


def _add(found: dict[int, str], i: Any, text: Any, where: pathlib.Path) -> None:
  if type(i) is not int or not isinstance(text, str) or i < 0:
    raise errors.CheckpointError(
      f"{where}: names the token {str(text)[:60]!r} with the id {str(i)[:60]!r}."
    )
  found[i] = text


def _first(named: Mapping[int, str]) -> tuple[str, int]:
  i = min(named)
  return named[i], i
