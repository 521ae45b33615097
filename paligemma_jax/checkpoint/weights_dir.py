"""Our own directory of weights: what `save(format="native")` writes.

    config.json       sizes of the model, softcaps and all that an npz alone cannot say
    params.npz        the parameters in the published format, a checksum per array
    tokenizer.model   the SentencePiece file, if there is one
    SEAL.json         size of each file, crc32 of the small ones; written last

Without its seal the directory does not exist.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Collection, Mapping
from typing import Any

from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import npz_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.models import param_table

_FORMAT = "paligemma_jax weights 1"
_CONFIG = "config.json"
_PARAMS = "params.npz"
_TOKENIZER = "tokenizer.model"
_SEAL = "SEAL.json"


def is_native(path: pathlib.Path) -> bool:
  """True for a directory that `save_native` wrote, or began to be copied from one."""
  return (path / _PARAMS).exists()


def save_native(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  sizes: Mapping[str, Any],
  *,
  dtype: Any = None,
  tokenizer: bytes = b"",
) -> pathlib.Path:
  """Writes the directory `path`, which must not exist; it appears complete or not at all.

  Args:
    params: {published name: array}.
    sizes: as in `params.sizes_of`.
    dtype: of the stored parameters; None keeps each one's own.
    tokenizer: content of the SentencePiece file; empty for none.

  Raises:
    CheckpointError: `path` exists, cannot be written, or the parameters do not fit the sizes.
  """
  path = pathlib.Path(path)
  param_table.only_published(params, str(path))
  param_table.check(
    {n: tuple(a.shape) for n, a in params.items()}, param_table.shapes(sizes), str(path)
  )
  with npz_export.new_folder(path) as folder:
    npz_export.save_npz(folder / _PARAMS, params, dtype=dtype)
    config = {"format": _FORMAT, "model": sizes}
    atomic_io.write_new(folder / _CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    if tokenizer:
      atomic_io.write_new(folder / _TOKENIZER, tokenizer)
    seal = {}
    for file in sorted(folder.iterdir()):
      seal[file.name] = {"bytes": file.stat().st_size}
      if file.name != _PARAMS:  # Its arrays have their own checksums.
        seal[file.name]["crc32"] = zlib.crc32(file.read_bytes())
    atomic_io.write_new(folder / _SEAL, json.dumps({"files": seal, "crc32": _crc(seal)}, indent=2))
  return path


def open_native(path: str | os.PathLike, fresh: Collection[str] = ()) -> reader.Weights:
  """Opens a directory that `save_native` wrote, its seal and all headers checked.

  Args:
    fresh: names that are not read, and may be of any shape.

  Raises:
    CheckpointError: the seal is missing or broken, or a file is damaged.
  """
  path = pathlib.Path(path)
  if not (path / _SEAL).exists():
    raise errors.CheckpointError(f"{path}: has no {_SEAL}: not written or copied to the end.")
  content = reader.read_json(path / _SEAL)
  files = content.get("files")
  if (
    not isinstance(files, dict)
    or not {_CONFIG, _PARAMS} <= set(files)
    or content.get("crc32") != _crc(files)
  ):
    raise errors.CheckpointError(f"{path / _SEAL}: fails its own checksum: damaged.")
  for name in sorted({_CONFIG, _PARAMS, _TOKENIZER} & set(files)):
    size, sealed = reader.regular_file(path / name), files[name]
    if not isinstance(sealed, dict) or sealed.get("bytes") != size:
      raise errors.CheckpointError(f"{path / name}: {size} bytes, but sealed as {sealed}.")
    if name != _PARAMS and zlib.crc32(_small(path / name)) != sealed.get("crc32"):
      raise errors.CheckpointError(f"{path / name}: differs from what was sealed: damaged.")
  config = reader.read_json(path / _CONFIG)
  if config.get("format") != _FORMAT:
    raise errors.CheckpointError(
      f"{path / _CONFIG}: format is {config.get('format')!r}, expected {_FORMAT!r}."
    )
  weights = npz.open_npz(path / _PARAMS, alone=False, fresh=fresh)
  found = {name: entry.shape for name, entry in weights.entries.items()}
  sizes = _checked_sizes(config.get("model"), weights.sizes, f"{path / _CONFIG}")
  param_table.check(found, param_table.shapes(sizes), str(path), fresh)
  tokenizer = path / _TOKENIZER if _TOKENIZER in files else None
  return dataclasses.replace(weights, path=path, kind="native", sizes=sizes, tokenizer=tokenizer)


def _crc(files: Mapping[str, Any]) -> int:
  return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _checked_sizes(found: Any, like: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The sizes of config.json, if they have the form of those that the shapes give."""
  if not isinstance(found, dict) or set(found) != set(like):
    raise errors.CheckpointError(f"{where}: damaged model sizes: expected {', '.join(like)}.")
  for tower in ("img", "llm"):
    if not isinstance(found[tower], dict) or set(found[tower]) != set(like[tower]):
      raise errors.CheckpointError(
        f"{where}: damaged model sizes: {tower} must have {', '.join(like[tower])}."
      )
  checked = {"res": (found["res"], like["res"])}
  for tower in ("img", "llm"):
    checked |= {f"{tower}.{k}": (v, like[tower][k]) for k, v in found[tower].items()}
  for name, (value, example) in checked.items():
    number = type(value) in (int, float) and 0 <= value < 1 << 31
    good = number if isinstance(example, float) else type(value) is type(example)
    # A count that the shapes give is at least 1; a window may be 0.
    if not good or (type(value) is int and (not number or value < min(example, 1))):
      raise errors.CheckpointError(f"{where}: damaged model sizes: {name} is {value!r}.")
  return found


def _small(path: pathlib.Path) -> bytes:
  try:
    return atomic_io.read(path, max_bytes=reader.MAX_SMALL_BYTES)
  except OSError as e:
    raise errors.CheckpointError(f"{path}: cannot be read: {e.strerror or e}.") from None
