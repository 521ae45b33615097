"""Joins the hosts of a run, checks that they agree, and gathers values from all of them.

JAX finds the hosts: on Cloud TPU VMs (by the metadata server), GKE, Slurm, Open MPI and Kubernetes.
Three environment variables name them by hand and take precedence.

Hosts with different configurations, code, weights or folders would train together without an error.
So each host sends its values, and all compare them, so that all end with the same sentence.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax._src import clusters  # JAX has no public way to ask for the hosts that it found.
from jax.experimental import multihost_utils

import paligemma_jax
from paligemma_jax.checkpoint import reader
from paligemma_jax.config import load as configs
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.multihost import channel
from paligemma_jax.multihost import hosts

_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_NOTICE_SECS, _AGAIN_SECS = 10, 30
# JAX's own heartbeat aborts processes; ours ends them in order, and is faster.
_JAX_HEARTBEAT_SECS = 7 * 24 * 3600
_JAX_SHUTDOWN_SECS = 60
_PACKAGES = (
    "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "pillow",
    "simplejpeg", "sentencepiece", "tensorflow-datasets", "array-record",
)  # fmt: skip
# Paths may differ between hosts; their content is compared instead. Beside `configs.is_place`.
_PLACES = ("init", "train.cache_image_features")
_NUM_SHOWN = 3
_MAX_SHOWN = 80
_SMALL_BYTES = 1 << 20
_NUM_BLOCKS, _BLOCK_BYTES = 512, 4096
_FOLDER_SECS = 15.0  # Network file systems show a new file to other machines with a delay.


def join(join_secs: float, stall_secs: float) -> hosts.Team | None:
  """Waits up to `join_secs` for the other hosts, then joins JAX; None for a process alone.

  Raises:
    ConfigError: the variables contradict each other, or the hosts do.
    HostError: not all hosts came in time.
  """
  found = _found(join_secs)
  if found is None:
    return None
  address, count, index, devices = found
  name = socket.gethostname()
  waited_secs = itertools.count(1)

  def notice(missing: str) -> None:
    secs = next(waited_secs)  # It is called once a second.
    if secs % _AGAIN_SECS == _NOTICE_SECS:
      _say(f"waiting for the other hosts since {secs} s: {missing}")

  ours: channel.Channel
  if index:
    ours = channel.Spoke(address, index, count, name)
  else:
    ours = channel.Hub(address[1], count, name)
  team = hosts.Team(ours, stall_secs=stall_secs)
  try:
    team.meet(join_secs, notice)
  except errors.HostError as e:
    raise errors.HostError(
      f"{e} Start the same command on all hosts at the same time, or allow more time with"
      f" --hosts_join_secs; to run on this host alone set {_COUNT}=1."
    ) from None
  jax.config.update("jax_enable_preemption_service", False)  # The team sends stops.
  coordinator = f"127.0.0.1:{ours.jax_port}"
  jax.distributed.initialize(
    coordinator,
    count,
    index,
    local_device_ids=devices,
    coordinator_bind_address=coordinator,
    cluster_detection_method="deactivate",
    heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECS,
    shutdown_timeout_seconds=_JAX_SHUTDOWN_SECS,
  )
  team.on_finish.append(jax.distributed.shutdown)
  atexit.register(team.goodbye)  # A process that ends normally is not missed.
  return team


# ((name, port) of host 0, number of hosts, number of this one, its local devices if not all).
_Found = tuple[tuple[str, int], int, int, list[int] | None]


def _found(secs: float) -> _Found | None:
  """The hosts as the variables or the cluster name them; None for a process alone."""
  address: Any = os.environ.get(_ADDRESS)
  count: Any = _number(_COUNT)
  index: Any = _number(_INDEX)
  devices: Any = None
  if count == 1:
    return None
  if ids := os.environ.get("JAX_LOCAL_DEVICE_IDS"):
    devices = [int(i) for i in ids.split(",") if i.strip().isdigit()]
  timer = threading.Timer(_NOTICE_SECS, _say, ("still looking for the hosts of this run",))
  timer.daemon = True
  timer.start()
  try:
    address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      address, count, index, devices, None, int(secs)
    )
  except Exception as e:  # Many types: of HTTP, DNS, Kubernetes.
    raise errors.HostError(
      f"The hosts of this run cannot be found: {type(e).__name__}: {e}. Set {_ADDRESS}, {_COUNT}"
      f" and {_INDEX} to name them, or {_COUNT}=1 to run on this host alone."
    ) from e
  finally:
    timer.cancel()
  values = {_ADDRESS: address, _COUNT: count, _INDEX: index}
  missing = [name for name, value in values.items() if value is None]
  if len(missing) == 3 or count == 1:
    return None
  if missing:
    present = [name for name in values if name not in missing]
    raise errors.ConfigError(
      f"{' and '.join(present)} {'is' if len(present) == 1 else 'are'} set, but not"
      f" {' and '.join(missing)}: several hosts need all three (the address and port of host 0,"
      " the number of hosts, the number of this one); one host alone needs none."
    )
  if not 0 <= index < count:
    raise errors.ConfigError(f"{_INDEX} is {index}; expected 0 to {count - 1} ({_COUNT}={count}).")
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise errors.ConfigError(f"{_ADDRESS} is {address!r}; expected NAME:PORT of host 0.")
  return (host.strip("[]"), int(port)), count, index, devices


def _number(name: str) -> int | None:
  text = os.environ.get(name)
  if not text:
    return None
  if not text.strip().isdecimal():
    raise errors.ConfigError(f"{name} is {text!r}; expected a number.")
  return int(text)


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)  # On every host: each may have a log of its own.


def check(team: hosts.Team | None, what: str, mine: Mapping[str, Any]) -> None:
  """Passes when all hosts have equal values; all call it in the same order. A process alone passes.

  Args:
    what: for messages, as "configuration".
    mine: {item: value} of this host, compared as text.

  Raises:
    ConfigError: values differ; on every host, with the hosts, the item and both values.
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
  """{key: value} of a configuration, without the paths that may differ between hosts."""
  return dict(_leaves(specs.to_json(config.to_dict()), ""))


def of_code() -> dict[str, str]:
  """Versions of this package, with a digest of its source, and of those that it computes with."""
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


def check_weights(team: hosts.Team | None, weights: reader.Weights) -> None:
  """Passes when all hosts have the same weights, in files of the same form; see `check`."""
  if team is not None:
    paths = {"weights": weights.path, "base of the adapters": weights.base}
    check(team, "weights", {what: of_weights(path) for what, path in paths.items() if path})


def of_weights(path: pathlib.Path) -> str:
  """A digest of a file of weights, or of all files of a folder.

  Of files above 1 MiB it reads 512 blocks: weights of two trainings differ nearly everywhere. Of
  those in a bucket it takes the store's checksums.
  """
  digest = hashlib.sha256()
  if bucket.is_bucket(path):
    found = bucket.listing(path) or {path.name: bucket.stat(path)}
    digest.update(repr(sorted((n, s.size, s.checksum) for n, s in found.items())).encode())
    return digest.hexdigest()[:16]
  for file in sorted(atomic_io.files_below(path)) or [path]:
    size = file.stat().st_size
    digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
    with open(file, "rb") as f:
      if size <= _SMALL_BYTES:
        digest.update(f.read(_SMALL_BYTES))
        continue
      for i in range(_NUM_BLOCKS):
        f.seek((size - _BLOCK_BYTES) * i // (_NUM_BLOCKS - 1))
        digest.update(f.read(_BLOCK_BYTES))
  return digest.hexdigest()[:16]


def check_folder(team: hosts.Team | None, path: pathlib.Path) -> None:
  """Passes when host 0 reads what every host writes into the folder, and every host what it writes.

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
      atomic_io.write_new(mine, mine.name)
    seen = _appears(path / f"{token}-0")
    if seen and team.index:
      atomic_io.write_new(mine, mine.name)
  except OSError as e:
    seen, trouble = False, f"{type(e).__name__}: {e.strerror or e}"
  problems = team.gather("whether it sees the workdir", [seen, trouble, str(path)])
  wrong = [i for i, (ok, _, _) in enumerate(problems) if not ok]
  if not wrong and not team.index:
    wrong = [i for i in range(team.count) if not _appears(path / f"{token}-{i}")]
  wrong = team.gather("whose files host 0 sees", wrong)[0]
  atomic_io.remove(mine)
  if wrong:
    host = wrong[0]
    why = problems[host][1] or "it does not see what host 0 wrote there"
    raise errors.WorkdirError(
      f"The workdir must be one folder that all hosts share, but {team.label(host)} has another"
      f" {problems[host][2]!r} than {team.label(0)} ({why}). Give all of them a --workdir in a"
      " bucket (gs://BUCKET/FOLDER), or on a file system that every host mounts (NFS, Filestore)."
    )


def _appears(path: pathlib.Path) -> bool:
  """Whether the file is seen within 15 s."""
  deadline = time.monotonic() + _FOLDER_SECS
  while True:
    try:
      if not bucket.is_bucket(path):
        os.listdir(path.parent)  # Refreshes the cache of network file systems.
      if atomic_io.read(path, max_bytes=1000).decode() == path.name:
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
  """The text, or its beginning and its checksum when it is long."""
  if len(text) <= _MAX_SHOWN:
    return text
  return f"{text[:_MAX_SHOWN]}… (crc32 {zlib.crc32(text.encode()):08x})"


def gather(value: Any) -> list[Any]:
  """The values of all processes in their order, on each; `value` is what `pack` takes."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(pack(value)).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([data.size])).ravel()
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: data.size] = data
  parts = multihost_utils.process_allgather(padded)
  return [unpack(json.loads(p[:n].tobytes())) for p, n in zip(parts, sizes, strict=True)]


def largest(number: int) -> int:
  """The largest of the numbers of all processes."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.process_allgather(np.array(number)).max())


def local_rows(x: jax.Array) -> np.ndarray:
  """This process's rows of an array over the global batch, whatever its sharding."""
  if x.is_fully_addressable:
    return np.asarray(x)
  whole = multihost_utils.process_allgather(x, tiled=True)
  size = whole.shape[0] // jax.process_count()
  return whole[jax.process_index() * size :][:size]


def pack(value: Any) -> Any:
  """JSON data of which `unpack` makes an equal value; numpy scalars become Python's.

  Args:
    value: None, bools, numbers, texts, bytes and numeric arrays, in lists, tuples and dicts.

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
    f"A {type(value).__name__} cannot be sent to another process; evaluators may keep"
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
