"""Records handed to every host, and what all hosts must have in common, compared in time.

Hosts that were started with different values compute one step together and train a mixture that
nobody asked for. Each host says what it has; all compare, so that all end with the same sentence.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import pathlib
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

import paligemma_jax
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.multihost import hosts

_PACKAGES = (
  "jax",
  "jaxlib",
  "libtpu",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "grain",
  "pillow",
  "simplejpeg",
  "sentencepiece",
  "tensorflow-datasets",
  "array-record",
)
# Where things lie may differ from host to host; what lies there is compared instead.
_PLACES = ("init", "train.cache_image_features")  # Beside those of `configs.is_place`.
_NUM_SHOWN = 3
_MAX_SHOWN = 80
_SMALL_BYTES = 1 << 20
_NUM_BLOCKS, _BLOCK_BYTES = 512, 4096
_FOLDER_SECS = 15.0  # A network file system shows a new file to other machines after a while.


def check(team: hosts.Team | None, what: str, mine: Mapping[str, Any]) -> None:
  """Returns when all hosts have the same; all hosts call it in the same order.

  Args:
    team: None for a process alone, which agrees with itself.
    what: for messages, as "configuration".
    mine: {item: value} of this host; values are compared and shown as text.

  Raises:
    ConfigError: they differ; on every host, with host, item and both values.
  """
  if team is None:
    return
  parts = team.gather(f"the {what}", {name: str(value) for name, value in mine.items()})
  found = []
  for name in dict.fromkeys(name for part in parts for name in part):
    values = [part.get(name, "(absent)") for part in parts]
    other = next((i for i, value in enumerate(values) if value != values[0]), 0)
    if other:
      found.append(
        f"{name} is {_shown(values[0])} on {team.label(0)} and {_shown(values[other])} on"
        f" {team.label(other)}"
      )
  if found:
    more = f"; and {len(found) - _NUM_SHOWN} more" if len(found) > _NUM_SHOWN else ""
    raise errors.ConfigError(
      f"The hosts differ in their {what}: {'; '.join(found[:_NUM_SHOWN])}{more}. Start all with"
      " the same command, files and packages."
    )


def of_config(config: ml_collections.ConfigDict) -> dict[str, str]:
  """{key: value} of a configuration, without what may differ from host to host."""
  return dict(_leaves(specs.to_json(config.to_dict()), ""))


def of_code() -> dict[str, str]:
  """The versions of this package, down to its source text, and of those that it computes with."""
  digest = hashlib.sha256()
  folder = pathlib.Path(paligemma_jax.__file__).parent
  for path in sorted(folder.rglob("*.py")):
    digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
  found = {"paligemma_jax": f"{paligemma_jax.__version__} ({digest.hexdigest()[:12]})"}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "(not installed)"
  return found


def of_weights(path: pathlib.Path) -> str:
  """A digest of a file of weights, or of a folder's files: small ones whole, of large ones parts.

  Weights of two trainings differ nearly everywhere, and 512 places are looked at in each file.
  """
  digest = hashlib.sha256()
  files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
  for file in files:
    size = file.stat().st_size
    name = str(file.relative_to(path)) if path.is_dir() else ""
    digest.update(f"{name}\0{size}\0".encode())
    with open(file, "rb") as f:
      if size <= _SMALL_BYTES:
        digest.update(f.read(_SMALL_BYTES))
        continue
      for i in range(_NUM_BLOCKS):
        f.seek((size - _BLOCK_BYTES) * i // (_NUM_BLOCKS - 1))
        digest.update(f.read(_BLOCK_BYTES))
  return digest.hexdigest()[:16]


def check_weights(team: hosts.Team | None, path: pathlib.Path) -> None:
  """Returns when all hosts have the same weights to start from at `path`; see `check`."""
  if team is not None:
    check(team, "initial weights", {"init": of_weights(path)})


def check_folder(team: hosts.Team | None, path: pathlib.Path) -> None:
  """Returns when every host has written a token into `path` that host 0 has read, and read its own.

  This is the one place that knows a run's folder to be a folder on a shared file system.

  Raises:
    WorkdirError: a host sees another folder, or cannot write into it; on every host.
  """
  if team is None:
    return
  token = team.gather("the workdir", f".hosts-{secrets.token_hex(8)}")[0]
  mine = path / f"{token}-{team.index}"
  trouble = ""
  try:
    if not team.index:
      _write_new(mine)
    seen = _appears(path / f"{token}-0")
    if seen and team.index:
      _write_new(mine)
  except OSError as e:
    seen, trouble = False, f"{type(e).__name__}: {e.strerror or e}"
  problems = team.gather("whether it sees the workdir", [seen, trouble, str(path)])
  wrong = [i for i, (ok, _, _) in enumerate(problems) if not ok]
  unseen = []
  if not wrong and not team.index:
    unseen = [i for i in range(team.count) if not _appears(path / f"{token}-{i}")]
  unseen = team.gather("whose files host 0 sees", unseen)[0]
  mine.unlink(missing_ok=True)
  if wrong or unseen:
    host = (wrong or unseen)[0]
    why = problems[host][1] or "it does not see what host 0 wrote there"
    raise errors.WorkdirError(
      f"The workdir must be one folder that all hosts share, but {team.label(host)} has another"
      f" {problems[host][2]!r} than {team.label(0)} ({why}). Mount the same file system on every"
      " host (NFS, Filestore, Lustre) and give it to all of them as --workdir."
    )


def _write_new(path: pathlib.Path) -> None:
  with open(path, "x", encoding="utf-8") as f:
    f.write(path.name)
    f.flush()
    os.fsync(f.fileno())


def _appears(path: pathlib.Path) -> bool:
  """Whether the file is there, or comes to be seen within a while."""
  deadline = time.monotonic() + _FOLDER_SECS
  while True:
    try:
      os.listdir(path.parent)  # Makes network file systems look again.
      if path.read_text(encoding="utf-8") == path.name:
        return True
    except OSError:
      pass
    if time.monotonic() > deadline:
      return False
    time.sleep(0.2)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
  if path in _PLACES or configs.is_place(path):
    return
  if isinstance(value, Mapping) and value:
    for key, inner in value.items():
      yield from _leaves(inner, f"{path}.{key}" if path else str(key))
  elif isinstance(value, (list, tuple)) and value:
    for i, inner in enumerate(value):
      yield from _leaves(inner, f"{path}.{i}")
  else:
    yield path, json.dumps(value)


def _shown(text: str) -> str:
  """The text, or its beginning and a checksum that tells long ones apart."""
  if len(text) <= _MAX_SHOWN:
    return text
  return f"{text[:_MAX_SHOWN]}… (crc32 {zlib.crc32(text.encode()):08x})"


def gather(value: Any) -> list[Any]:
  """The values of all processes, in the order of the processes; the same list in each.

  Args:
    value: None, booleans, numbers, texts, bytes and numpy arrays, in lists, tuples and dicts.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(pack(value)).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([data.size])).ravel()
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: data.size] = data
  parts = multihost_utils.process_allgather(padded)
  return [unpack(json.loads(p[:n].tobytes())) for p, n in zip(parts, sizes, strict=True)]


def local_rows(x: jax.Array) -> np.ndarray:
  """This process's rows of an array whose rows are those of the global batch, however it lies."""
  if x.is_fully_addressable:
    return np.asarray(x)
  whole = multihost_utils.process_allgather(x, tiled=True)
  size = whole.shape[0] // jax.process_count()
  return whole[jax.process_index() * size :][:size]


def pack(value: Any) -> Any:
  """JSON data that `unpack` turns into an equal value of equal types.

  Numpy scalars become Python's.

  Raises:
    ConfigError: a value of another type.
  """
  if isinstance(value, np.generic):
    value = value.item()
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, list):
    return [pack(v) for v in value]
  if isinstance(value, tuple):
    return {"tuple": [pack(v) for v in value]}
  if isinstance(value, dict):
    return {"dict": [[pack(k), pack(v)] for k, v in value.items()]}
  if isinstance(value, bytes):
    return {"bytes": base64.b64encode(value).decode()}
  if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"array": [value.dtype.str, list(value.shape), data]}
  raise errors.ConfigError(
    f"A {type(value).__name__} cannot be handed from one process to another; evaluators may keep"
    " columns of texts, numbers, bytes and numeric arrays."
  )


def unpack(data: Any) -> Any:
  """The inverse of `pack`."""
  if isinstance(data, list):
    return [unpack(v) for v in data]
  if not isinstance(data, dict):
    return data
  ((kind, content),) = data.items()
  if kind == "tuple":
    return tuple(unpack(v) for v in content)
  if kind == "dict":
    return {unpack(k): unpack(v) for k, v in content}
  if kind == "bytes":
    return base64.b64decode(content)
  dtype, shape, text = content
  return np.frombuffer(base64.b64decode(text), dtype).reshape(shape).copy()
