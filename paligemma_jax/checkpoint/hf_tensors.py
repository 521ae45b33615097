"""The tensors of a Hugging Face directory: from its one file, or from the shards of its index."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from collections.abc import Mapping

from absl import logging

from paligemma_jax.checkpoint import hf_names
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import errors

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
    logging.warning("%s: takes %s; %s does not fit: %s", path, taken, name, _first_line(why))
  return good[taken]


def _single(path: pathlib.Path) -> Tensors:
  return _canonical(safetensors.read_header(path / SINGLE, buffers=hf_names.BUFFER), path)


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
    tensors = safetensors.read_header(path / shard, buffers=hf_names.BUFFER)
    odd = sorted(n for n in set(tensors) ^ listed if not hf_names.BUFFER.search(n))
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
  """The tensors under the names of `hf_names`, a tied pair that is stored once as the embedding."""
  found: Tensors = {}
  for name, tensor in _unwrapped(tensors).items():
    key = hf_names.canonical(name)
    if key in found:
      raise errors.CheckpointError(f"{path}: {name!r} is there twice, under two spellings.")
    found[key] = tensor
  if hf_names.EMBEDDING not in found and hf_names.LM_HEAD in found:
    found[hf_names.EMBEDDING] = found.pop(hf_names.LM_HEAD)
  return found


def _unwrapped(tensors: Mapping[str, safetensors.Tensor]) -> dict[str, safetensors.Tensor]:
  found = dict(tensors)
  while found:
    prefix = next((w for w in _WRAPPERS if all(name.startswith(w) for name in found)), "")
    if not prefix:
      break
    found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
  return found


def _first_line(error: Exception) -> str:
  return str(error).splitlines()[0]
