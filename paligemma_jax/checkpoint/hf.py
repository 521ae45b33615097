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
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.models import param_table


def open_hf(path: str | os.PathLike, fresh: Collection[str] = ()) -> reader.Weights:
  """Opens a directory as transformers writes it; all headers are checked against config.json.

  Args:
    fresh: names of ours that are not read, and may be missing or of any shape.

  Raises:
    CheckpointError: a file is missing, damaged or of another model; all differences are listed.
  """
  path = bucket.path(path)
  config = reader.read_json(path / "config.json")
  sizes = hf_config.sizes_of(config, str(path / "config.json"))
  table = {name: row for name, row in param_table.rows(sizes).items() if name not in fresh}
  dims = param_table.dims_of(sizes)
  found = find(path, lambda tensors: _check(tensors, sizes, fresh, str(path)))
  if param_table.INPUT_EMBEDDING in table:
    sizes["llm"]["vocab_size"] = vocab_size(path, config, found[param_table.EMBEDDING])
  shapes = param_table.shapes(sizes)
  ids = (config.get("image_token_index"), config.get("image_token_id"))  # Either name is in use.
  return reader.Weights(
    path=path,
    kind="hf",
    entries={name: reader.Entry(shapes[name], _dtype(row, found)) for name, row in table.items()},
    sizes=sizes,
    tokenizer=hub.find_tokenizer(path),
    blocks=lambda name, fill=reader.fill_alone: _blocks(
      table[name], dims, found, shapes[name][0], fill
    ),
    image_token=next((i for i in ids if type(i) is int and i > 0), 0),
    folder=path,
  )


def places(row: param_table.Param, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
  """(their name, its index in our array) of each tensor that makes one of our parameters.

  Args:
    depth: the first dimension of ours, which is its layers where it has any.
  """
  layered = "{i}" in row.hf[0]
  for i in range(depth if layered else 1):
    for part, name in enumerate(row.hf):
      index = (i, part) if layered else (part,)
      yield name.format(i=i), index if len(row.hf) > 1 else index[:-1]


def _dtype(row: param_table.Param, found: Tensors) -> np.dtype:
  """Of our parameter; mixed precisions meet in the one that holds them all."""
  dtypes = {found[name.format(i=0)].entry.dtype for name in row.hf}
  return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)


def _blocks(
  row: param_table.Param,
  dims: Mapping[str, int],
  found: Tensors,
  num_rows: int,
  fill: reader.Fill,
) -> Iterator[np.ndarray]:
  """Our array in blocks: one layer at a time, or rows of the embedding."""
  if row.name == param_table.INPUT_EMBEDDING:
    yield from _embedding(found, num_rows, fill)
    return
  layered = "{i}" in row.hf[0]
  for i in range(num_rows if layered else 1):
    tensors = [found[name.format(i=i)] for name in row.hf]
    arrays = [reader.rows(tensor, 0, tensor.entry.shape[0], fill=fill) for tensor in tensors]
    parts = [param_table.to_ours(array, row.layout, dims) for array in arrays]
    block = parts[0] if len(parts) == 1 else np.stack(parts)
    yield block[None] if layered else block


def _embedding(found: Tensors, num_rows: int, fill: reader.Fill) -> Iterator[np.ndarray]:
  head = found.get(param_table.LM_HEAD)
  blocks = reader.row_blocks(found[param_table.EMBEDDING], num_rows, fill=fill)
  if head is None:
    yield from blocks
    return
  for block, copy in zip(blocks, reader.row_blocks(head, num_rows, fill=fill), strict=True):
    if not np.array_equal(block, copy):
      raise errors.CheckpointError(
        f"{head.path}: lm_head differs from the embedding; PaliGemma ties the two."
      )
    yield block


def _check(found: Tensors, sizes: Mapping[str, Any], fresh: Collection[str], where: str) -> None:
  """Raises CheckpointError unless the tensors are those of a model of these sizes."""
  shapes = {name: tensor.entry.shape for name, tensor in found.items()}
  dims, depths = param_table.dims_of(sizes), param_table.shapes(sizes)
  released, rows = hf_config.RELEASED, shapes.get(param_table.EMBEDDING, ())[:1]
  if rows and {dims["V"], *rows} == {released, hf_config.num_rows(released, released)}:
    dims["V"] = rows[0]  # config.json may leave out padding.
  expected = {}
  left_out = {param_table.LM_HEAD} if param_table.INPUT_EMBEDDING in fresh else set()
  for name, row in param_table.rows(sizes).items():
    theirs = [their for their, _ in places(row, depths[name][0])]
    expected.update(dict.fromkeys(theirs, param_table.their_shape(row.layout, dims)))
    if name in fresh:
      left_out.update(theirs)
  if param_table.LM_HEAD in found:
    expected[param_table.LM_HEAD] = expected[param_table.EMBEDDING]
  param_table.check(shapes, expected, where, left_out)


INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
# What wrappers put in front of every name: data parallelism, torch.compile, PEFT.
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")

Tensors = dict[str, reader.Tensor]


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
      tensors = _canonical(ways[name](path), path)
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
  return reader.safetensors_header(path / SINGLE, buffers=param_table.BUFFER)


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
    tensors = reader.safetensors_header(path / shard, buffers=param_table.BUFFER)
    odd = sorted(n for n in set(tensors) ^ listed if not param_table.BUFFER.search(n))
    if odd:
      raise errors.CheckpointError(
        f"{path / shard}: differs from {INDEX} in {len(odd)} names, the first is {odd[0]!r}."
      )
    twice = sorted(found.keys() & tensors.keys())
    if twice:
      raise errors.CheckpointError(f"{path}: {twice[0]!r} is there twice, in two shards.")
    found.update(tensors)
  return found


def _canonical(tensors: Tensors, path: pathlib.Path) -> Tensors:
  """The tensors by the names of `param_table`; a tied pair stored once is the embedding."""
  bare = dict(tensors)
  while bare:
    prefix = next((w for w in _WRAPPERS if all(name.startswith(w) for name in bare)), "")
    if not prefix:
      break
    bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
  found: Tensors = {}
  for name, tensor in bare.items():
    key = param_table.canonical(name)
    if key in found:
      raise errors.CheckpointError(f"{path}: {name!r} is there twice, under two spellings.")
    found[key] = tensor
  if param_table.EMBEDDING not in found and param_table.LM_HEAD in found:
    found[param_table.EMBEDDING] = found.pop(param_table.LM_HEAD)
  return found


_ALIKE = 0.5  # Of the spread of ordinary rows; released rows are within 0.02 of it.
_MAX_JSON_BYTES = 40 << 20  # Gemma's tokenizer.json has 17 to 35 MB.
_MAX_SAMPLE = 4096  # Rows.
_MAX_DIGITS = 19  # Of an id.


def vocab_size(path: pathlib.Path, config: Mapping[str, Any], table: reader.Tensor) -> int:
  """How many rows of the stored `table` are vocabulary; a log line says when spare ones are not."""
  rows = table.entry.shape[0]
  words = config.get(hf_config.KEY, hf_config.RELEASED)
  if type(words) is not int or words < 1 or rows != hf_config.num_rows(words, words):
    return rows
  named = {i: text for i, text in added_tokens(path).items() if words <= i < rows}
  named = {i: text for i, text in named.items() if text != hf_config.IMAGE}
  reason = ""
  if named:
    first = min(named)
    reason = f"{named[first]!r} is token {first}"
  elif not alike(table, words):
    reason = f"those from {words} on differ from each other, so they have been trained"
  if reason:
    logging.info("%s: keeps all %d rows of the embedding: %s", path, rows, reason)
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


def alike(table: reader.Tensor, words: int) -> bool:
  """Whether the rows from `words` on are as alike as untrained ones."""
  rows = table.entry.shape[0]
  spare = reader.rows(table, words, rows).astype(np.float32)
  sample = reader.rows(table, 0, min(words, _MAX_SAMPLE)).astype(np.float32)
  spread = np.sqrt(np.mean(np.var(sample, axis=0)))
  off = np.sqrt(np.mean((spare - np.median(spare, axis=0)) ** 2, axis=1))
  return bool(off.max() <= _ALIKE * spread)


def _add(found: dict[int, str], i: Any, text: Any, where: pathlib.Path) -> None:
  if type(i) is not int or not isinstance(text, str) or i < 0:
    raise errors.CheckpointError(
      f"{where}: names the token {str(text)[:60]!r} with the id {str(i)[:60]!r}."
    )
  found[i] = text
