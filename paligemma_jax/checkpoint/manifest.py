"""Folders of arrays and their seal: a folder counts only once SEAL.json lists its every byte.

File systems and array formats do not detect every flipped bit, truncated file or file of another
step; the seal holds the size and a checksum of every file, and its own. On a disk that is the
CRC-32 of what was read back; in a bucket it is the store's checksum, for which nothing is read.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.core import trees

SEAL = "SEAL.json"
_BLOCK_BYTES = 2**22
_MAX_TABLE_BYTES = 8 << 20  # Of a file that describes arrays; 400 bytes for each are usual.


class Broken(Exception):
  """Why a folder is not intact: which file, what was found, what was expected."""


def write(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Seals `folder`: lists and syncs all files in it, then writes SEAL.json and syncs that.

  Args:
    facts: plain JSON data to keep in the seal.
  """
  if bucket.is_bucket(folder):
    files = {name: [stat.size, stat.checksum] for name, stat in bucket.listing(folder).items()}
    bucket.create(folder / SEAL, _render({"facts": dict(facts), "files": files}))
    return
  files = {name: _digest(folder / name, sync=True) for name in _listing(folder)}
  for parent in sorted({(folder / name).parent for name in files} | {folder}):
    atomic_io.sync(parent)
  atomic_io.write_new(folder / SEAL, _render({"facts": dict(facts), "files": files}))
  atomic_io.sync(folder)


def read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, list]]:
  """(facts, {file: [size, crc32]}) of a seal whose own bytes are intact; files are not read.

  Raises:
    Broken: no seal, or not the bytes that were written.
  """
  try:
    data = atomic_io.read(folder / SEAL, max_bytes=strict_json.MAX_BYTES)
    body = strict_json.parse_object(data).get("body")
  except FileNotFoundError:
    raise Broken(f"{SEAL} is missing: it was never finished, or was deleted") from None
  except (OSError, strict_json.Malformed) as e:
    raise Broken(f"{SEAL} cannot be read: {strict_json.reason(e)}") from None
  if not isinstance(body, dict) or data != _render(body):
    raise Broken(f"{SEAL} is not as it was written")
  facts, files = body.get("facts"), body.get("files")
  if not isinstance(facts, dict) or not isinstance(files, dict):
    raise Broken(f"{SEAL} holds no facts, or no files")
  for name, sealed in files.items():
    if not isinstance(sealed, list) or list(map(type, sealed)) != [int, str]:
      raise Broken(f"{SEAL} says {str(sealed)[:60]!r} of {name}, no size and checksum")
  return facts, files


def verify(folder: pathlib.Path) -> dict[str, Any]:
  """The facts of an intact folder: every file there, none besides, all bytes as sealed.

  Raises:
    Broken: otherwise, naming the first bad file.
  """
  return _verified(folder)[0]


def _verified(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, list]]:
  facts, files = read(folder)
  try:
    known = bucket.listing(folder) if bucket.is_bucket(folder) else {}
    there = set(known or _listing(folder)) - {SEAL}
    for name in sorted(there | set(files)):
      if name not in files:
        raise Broken(f"{name} is not in the seal")
      if name not in there:
        raise Broken(f"{name} is missing")
      size = files[name][0]
      found = known[name].size if known else (folder / name).stat().st_size
      if found != size:
        short = f"{size - found} bytes short" if found < size else f"{found - size} bytes too long"
        raise Broken(f"{name} is {short}")
    for name, (_, sealed) in sorted(files.items()):
      if known and known[name].checksum.partition(":")[0] == sealed.partition(":")[0]:
        bytes_of = known[name].checksum
      else:  # Sealed elsewhere, and copied.
        bytes_of = _checksum(folder / name, sealed)
      if bytes_of != sealed:
        raise Broken(f"{name} has other bytes than when it was sealed")
  except OSError as e:
    raise Broken(f"cannot be read: {e}") from None
  return facts, files


def seal_crc(folder: pathlib.Path) -> str:
  """The CRC-32 of the seal itself, which stands for the whole folder.

  Raises:
    Broken: there is none that can be read.
  """
  try:
    return _checksum(folder / SEAL, "")
  except OSError as e:
    raise Broken(f"{SEAL} cannot be read: {e.strerror or e}") from None


def _render(body: Mapping[str, Any]) -> bytes:
  text = json.dumps(body, sort_keys=True)
  crc = f"{zlib.crc32(text.encode()):08x}"
  return (json.dumps({"body": body, "crc32": crc}, sort_keys=True, indent=1) + "\n").encode()


def _listing(folder: pathlib.Path) -> list[str]:
  found = []
  for path in folder.rglob("*"):
    name = str(path.relative_to(folder))
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
      raise Broken(f"{name} is no regular file")
    if path.is_file():
      found.append(name)
  return sorted(found)


def _checksum(path: pathlib.Path, like: str) -> str:
  """The checksum of the file's bytes, of the kind of `like`: 'md5:BASE64' or a plain CRC-32."""
  kind, colon, _ = like.partition(":")
  if colon and kind != "md5":
    raise Broken(f"{path.name} was sealed with {kind}, which only its bucket can tell")
  if not colon:
    return _digest(path, sync=False)[1]
  with atomic_io.open_regular(path) as f:
    return f"md5:{base64.b64encode(hashlib.file_digest(f, 'md5').digest()).decode()}"


def _digest(path: pathlib.Path, *, sync: bool) -> list:
  crc, size = 0, 0
  with atomic_io.open_regular(path) as f:
    while block := f.read(_BLOCK_BYTES):
      crc = zlib.crc32(block, crc)
      size += len(block)
    if sync:
      os.fsync(f.fileno())
  return [size, f"{crc:08x}"]


_CHUNK_BYTES = 32 << 20  # Of an array, that are stored together.
_READ_BYTES = 1 << 29  # Of arrays, that are read at a time.
_RETRIES = {"max_retries": 6, "initial_delay": "1s", "max_delay": "32s"}
BASE = "base"
ARRAYS = "state"
TMP = ".tmp-"
_NON_FINITE = ("NaN", "Infinity", "-Infinity")  # In a line, for what JSON has no number for.
_NONFINITE = {"count", "streak", "forgiven"}  # Of skipped steps.
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")  # Of one spelling only, so that the name is the step.


def steps_in(folder: pathlib.Path) -> list[int]:
  """The steps that have a folder (in a bucket, a sealed one) in `checkpoints/`, in no order."""
  if bucket.is_bucket(folder):
    found = [name.split("/") for name in bucket.listing(folder)]
    return [int(at[0]) for at in found if at[1:] == [SEAL] and _STEP.fullmatch(at[0])]
  return [int(p.name) for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir()]


def verify_step(folder: pathlib.Path) -> dict[str, Any]:
  """The facts of an intact step folder whose frozen parameters beside it are intact too.

  Raises:
    Broken: naming the first bad file.
  """
  facts = _checked_with_tables(folder)
  if facts["kind"] != "step" or str(facts["step"]) != folder.name:
    raise Broken(f"{SEAL} is of another folder ({facts['kind']} {facts.get('step', '')})")
  if facts["base"]:
    base = folder.parent / BASE
    try:
      _checked_with_tables(base)
      if seal_crc(base) != facts["base"]:
        raise Broken(f"{SEAL} is of another run")
    except Broken as e:
      raise Broken(f"its frozen parameters in ../{BASE}: {e}") from None
  return facts


def _checked_with_tables(folder: pathlib.Path) -> dict[str, Any]:
  """The facts; Broken where a description of arrays is of a size that only reading would tell."""
  facts, files = _verified(folder)
  for name, (size, _) in files.items():
    if re.match(rf"{ARRAYS}/(_|array_metadatas/)", name) and size > _MAX_TABLE_BYTES:
      raise Broken(f"{name} has {size} bytes, the limit is {_MAX_TABLE_BYTES}")
  return _checked(facts)


def read_facts(folder: pathlib.Path) -> dict[str, Any]:
  """The facts in the seal of a step or of frozen parameters; the files are not read.

  Raises:
    Broken: no seal, or not one of a step or of frozen parameters.
  """
  return _checked(read(folder)[0])


def check_leaves(
  folder: pathlib.Path, found: Mapping[str, list], wanted: Mapping[str, list]
) -> None:
  """Raises ConfigError, naming names, unless the tables `found` and `wanted` are equal."""
  if found == wanted:
    return
  both = sorted(n for n in wanted if n in found and wanted[n] != found[n])
  kinds = {
    "lacks": sorted(set(wanted) - set(found)),
    "has besides": sorted(set(found) - set(wanted)),
    "differs in": [f"{n} ({found[n]} instead of {wanted[n]})" for n in both],
  }
  parts = []
  for what, names in kinds.items():
    if names:
      more = f" and {len(names) - 3} more" if len(names) > 3 else ""
      parts.append(f"{what} {', '.join(names[:3])}{more}")
  raise errors.ConfigError(
    f"The state in {folder} was saved by a run with other settings (model, freezing or"
    f" optimizer): it {'; it '.join(parts)}. Use the same config, or another --workdir."
  )


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
  """The facts, if they have the form that a save gives them; anybody can write an intact seal."""
  leaves, kind = facts.get("leaves"), facts.get("kind")
  good = kind in ("step", BASE) and isinstance(leaves, dict) and all(map(_is_leaf, leaves.values()))
  if good and kind == "step":
    good = (
      type(facts.get("step")) is int
      and isinstance(facts.get("base"), str)
      and _is_of_run(facts.get("run", {}))  # Runs of earlier versions have none.
    )
  if not good:
    raise Broken(f"{SEAL} does not have the fields of the seal of a {kind or 'step'}")
  return facts


def _is_leaf(value: Any) -> bool:
  """[dtype, shape], as `table` makes it."""
  if not isinstance(value, list) or list(map(type, value)) != [str, list]:
    return False
  return all(type(size) is int and 0 <= size < 1 << 48 for size in value[1])


def _is_of_run(value: Any) -> bool:
  """What a run saves beside its state: its line in metrics.jsonl, and counts, or nothing."""
  if not isinstance(value, dict):
    return False
  line, rows = value.get("line", []), value.get("rows", {})
  nonfinite = value.get("nonfinite", dict.fromkeys(_NONFINITE, 0))
  if list(map(type, (line, rows, nonfinite))) != [list, dict, dict]:
    return False
  counts = [*rows.values(), *nonfinite.values()]
  return (
    all(type(count) is int and count >= 0 for count in counts)
    and set(nonfinite) == _NONFINITE
    # [name, number] each, as `trainer.metrics.plain` makes them.
    and all(isinstance(x, list) and len(x) == 2 and isinstance(x[0], str) for x in line)
    and all(type(x[1]) in (int, float) or x[1] in _NON_FINITE for x in line)
  )


if TYPE_CHECKING:
  import orbax.checkpoint as ocp


def checkpointer() -> ocp.AsyncCheckpointer:
  """A writer of arrays; one per run, closed by its owner."""
  import orbax.checkpoint as ocp

  _limit_retries()
  return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())


def to_save(flat: Mapping[str, jax.Array]) -> ocp.args.PyTreeSave:
  """What a writer of `checkpointer` saves of {name: array}.

  Arrays are stored in chunks. Whoever reads a part of a chunk, as on more devices than had saved
  it, has all of it in memory, twice while it is unpacked.
  """
  import orbax.checkpoint as ocp

  tree = trees.unflatten(flat)
  chunks = jax.tree.map(lambda leaf: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree)
  return ocp.args.PyTreeSave(tree, save_args=chunks)


def _limit_retries() -> None:
  """Lets a store be asked again for a minute; a quarter of an hour is the default."""
  # Orbax passes no settings of this kind on; each of its handlers copies these.
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
    for kind in ("gcs_request_retries", "s3_request_retries"):
      context[kind] = dict(_RETRIES)


def restore(
  path: pathlib.Path, targets: Mapping[str, jax.Array | jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """The arrays named in `targets`, in its dtypes and on its shardings; others are not read.

  Beside what is on the devices, about half a gigabyte, or the largest shard, is in host memory at a
  time.

  Args:
    targets: name -> shape, dtype and sharding; the shape must be the stored one.
  """
  import orbax.checkpoint as ocp

  tree = trees.unflatten(targets)
  args = ocp.checkpoint_utils.construct_restore_args(tree)
  return _restore(path, tree, args, _limit(path, targets))


def _limit(path: pathlib.Path, targets: Mapping[str, Any]) -> int:
  """Bytes to read at a time: enough for the largest shard."""
  # A chunk is no larger than its array, and no number than 8 bytes.
  bounds = (8 * math.prod(2 * size for size in target.shape) for target in targets.values())
  if max(bounds, default=0) < _READ_BYTES:
    return _READ_BYTES
  found = described(path)
  known = {name: target for name, target in targets.items() if name in found}
  largest = max((_read_for(target, *found[name]) for name, target in known.items()), default=0)
  return max(_READ_BYTES, largest + 1)


def _read_for(target: Any, dtype: Any, shape: Sequence[int], chunk: Sequence[int]) -> int:
  """Bytes that are read, at most, for one shard: those of all chunks that it lies in."""
  shard = target.sharding.shard_shape(target.shape)
  sizes = (
    min(-(-whole // c) * c, part if part % c == 0 else (-(-part // c) + 1) * c)
    for whole, part, c in zip(shape, shard, np.maximum(chunk, 1).tolist(), strict=True)
  )
  return math.prod(sizes) * max(np.dtype(dtype).itemsize, np.dtype(target.dtype).itemsize)


def read_one(path: pathlib.Path, name: str) -> np.ndarray:
  """The array `name` of the folder `path` in host memory, in its stored dtype."""
  import orbax.checkpoint as ocp

  tree = trees.unflatten({name: 0})
  args = trees.unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray)})
  return _restore(path, tree, args)[name]


def described(path: pathlib.Path) -> dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]]:
  """{name: (dtype, shape, shape of its parts)} of the arrays in `path`, of which none is read."""
  import orbax.checkpoint as ocp

  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    about = reader.metadata(path).item_metadata
  if about is None:
    raise ValueError("its description is damaged, or an array that it names is missing")
  found = trees.flatten(about.tree)
  return {n: (a.dtype, tuple(a.shape), tuple(a.storage.chunk_shape)) for n, a in found.items()}


def names(tree: Any, prefix: str = "") -> dict[str, Any]:
  """name -> leaf of a tree of dicts and named tuples, as 'prefix/rule/mu/llm/...'."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return {f"{prefix}/{keystr(path)}".strip("/"): leaf for path, leaf in leaves}


def rebuild(like: Any, flat: Mapping[str, Any], prefix: str = "") -> Any:
  """The tree of `like`'s structure whose leaves are those of `flat` by name."""
  return jax.tree.unflatten(jax.tree.structure(like), [flat[n] for n in names(like, prefix)])


def table(flat: Mapping[str, Any]) -> dict[str, list]:
  """{name: [dtype, shape]}, plain JSON data."""
  return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in flat.items()}


def _restore(
  path: pathlib.Path, tree: Any, restore_args: Any, num_bytes: int | None = None
) -> dict[str, Any]:
  import orbax.checkpoint as ocp

  args = ocp.args.PyTreeRestore(item=tree, restore_args=restore_args, partial_restore=True)
  limit: Any = None if num_bytes is None else num_bytes / 1e9  # A fraction is fine, too.
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(restore_concurrent_gb=limit)) as reader:
    return trees.flatten(reader.restore(path, args=args))
