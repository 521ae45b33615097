"""Finds out whether this process is one of several hosts, and joins the others.

Who the hosts are is JAX's to say: it knows Cloud TPU VMs (by the metadata server), GKE, Slurm, Open
MPI and Kubernetes. Three variables name them by hand; those that are set come before what is found.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
from typing import Any

import jax
from jax._src import clusters  # JAX finds hosts, but has no public way to ask it for what it found.

from paligemma_jax.core import errors
from paligemma_jax.multihost import channel
from paligemma_jax.multihost import hosts

_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_NOTICE_SECS = 10.0
_AGAIN_SECS = 30.0
# JAX's own watch over the hosts aborts processes; ours ends them, and is the faster one.
_JAX_HEARTBEAT_SECS = 7 * 24 * 3600
_JAX_SHUTDOWN_SECS = 60


def join(join_secs: float, stall_secs: float) -> hosts.Team | None:
  """Waits for the other hosts and joins JAX with them; None for a process alone.

  Args:
    join_secs: how long to wait.
    stall_secs: see `hosts.Team`.

  Raises:
    ConfigError: the variables contradict each other, or the hosts do.
    HostError: not all came in time.
  """
  found = _found(join_secs)
  if found is None:
    return None
  address, count, index, devices = found
  name = socket.gethostname()

  def connect(**callbacks: Any) -> channel.Channel:
    if index:
      return channel.Spoke(address, index, count, name, **callbacks)
    return channel.Hub(address[1], count, name, **callbacks)

  team = hosts.Team(connect, stall_secs=stall_secs)
  notice = _Notice()
  try:
    team.meet(join_secs, notice)
  except errors.HostError as e:
    raise errors.HostError(
      f"{e} Start the same command on all hosts at the same time, or allow more time with"
      f" --hosts_join_secs; to run on this host alone set {_COUNT}=1."
    ) from None
  jax.config.update("jax_enable_preemption_service", False)  # Stops travel through the team.
  jax.distributed.initialize(
    f"127.0.0.1:{team.jax_port}",
    count,
    index,
    local_device_ids=devices,
    coordinator_bind_address=f"127.0.0.1:{team.jax_port}",
    cluster_detection_method="deactivate",
    heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECS,
    shutdown_timeout_seconds=_JAX_SHUTDOWN_SECS,
  )
  team.on_finish.append(jax.distributed.shutdown)
  atexit.register(team.goodbye)  # A process that ends in peace is not missed.
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
  timer = threading.Timer(_NOTICE_SECS, _say, ("still asking this machine who its hosts are",))
  timer.daemon = True
  timer.start()
  try:
    address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      address, count, index, devices, None, int(secs)
    )
  except Exception as e:  # Of whatever asks: HTTP, DNS, Kubernetes.
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


class _Notice:
  """Says who is missing after 10 s, then every half minute."""

  def __init__(self):
    self._next_secs = _NOTICE_SECS
    self._secs = 0.0

  def __call__(self, missing: str) -> None:
    self._secs += 1.0  # It is called once a second.
    if self._secs >= self._next_secs:
      self._next_secs += _AGAIN_SECS
      _say(f"waiting for the other hosts since {self._secs:.0f} s: {missing}")


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)  # Every host says it: its own log may be the only one.
