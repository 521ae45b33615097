"""Brings up JAX for a command: compilation cache, log lines, advice when memory runs out."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging as std_logging
import math
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import flags
from absl import logging

from paligemma_jax.config import command_line
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.multihost import agreement
from paligemma_jax.multihost import hosts
from paligemma_jax.trainer import workdir as workdirs

_PLATFORMS_VARIABLE = "JAX_PLATFORMS"
# What brings JAX's part for a platform.
_INSTALLS = {
  "cpu": "",
  "cuda": "pip install 'jax[cuda12]'",
  "gpu": "pip install 'jax[cuda12]'",
  "rocm": "pip install 'jax[rocm7-local]'",
  "tpu": "pip install 'jax[tpu]'",
}
_THREADS_VARIABLE = "NPROC"  # Read by XLA when the CPU becomes a device.
_THREADS_OF_SEVERAL_DEVICES = 64
_LONG_COMPILE_SECS = 1.0


def start(
  *,
  alone: bool = False,
  join_secs: float = command_line.JOIN_SECS,
  stall_secs: float = command_line.STALL_SECS,
) -> hosts.Team | None:
  """Joins the other hosts, if there are any, and turns on the compilation cache.

  Args:
    alone: for a command that is no run: do not look for other hosts.
    join_secs: how long to wait for the others.
    stall_secs: after so long without progress on any host all of them end.

  Returns:
    The team of hosts; None for a process alone.

  Raises:
    ConfigError: the hosts do not fit together, or JAX has no device.
    HostError: some hosts did not come.
  """
  _quiet_libraries()
  use()
  team = None if alone else agreement.join(join_secs, stall_secs)
  if team is not None and team.index:
    # All hosts would log the same as the first.
    logging.get_absl_handler().addFilter(lambda record: record.levelno >= std_logging.ERROR)
  _choose_threads(several_hosts=team is not None)
  with hosts.failing_together(team):
    check()
  return team


def check() -> None:
  """Brings up JAX's devices.

  Raises:
    ConfigError: there are none of the platform that JAX_PLATFORMS asks for.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as e:
    config: Any = jax.config  # Its stubs do not name its values.
    asked = os.environ.get(_PLATFORMS_VARIABLE, "") or config.jax_platforms or ""
    text = str(e).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
    reason = text[:200].removesuffix(".") or "no such device or plug-in"
    if not asked:
      raise errors.ConfigError(f"JAX cannot bring up a device: {reason}.") from e
    names = [name for name in asked.split(",") if name not in _INSTALLS]
    if names:
      helps = errors.did_you_mean(names[0], _INSTALLS).strip()
    else:
      helps = " or ".join(f"`{_INSTALLS[n]}`" for n in asked.split(",") if _INSTALLS[n])
      helps = f"On a machine that has one: {helps}." if helps else ""
    raise errors.ConfigError(
      f"{_PLATFORMS_VARIABLE}={asked!r} asks for a device that JAX does not find here: {reason}."
      f" {helps} Or unset {_PLATFORMS_VARIABLE} to use what there is."
    ) from e


def _give_back_memory(event: str, duration_secs: float, **_: str | int) -> None:
  """Returns the memory of a compilation to the system: half a GB after a training step's.

  The C library would keep it, in addition to what the step needs.
  """
  if "compil" in event and duration_secs > _LONG_COMPILE_SECS:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
      trim(0)


def _choose_threads(*, several_hosts: bool) -> None:
  """Sets the threads of XLA:CPU where CPU devices communicate.

  A device runs independent collectives of a program at once, a thread for each. Within a process
  they are matched by name, but each holds its thread until all devices have arrived: with a thread
  per core, a run on 8 virtual devices and 2 cores deadlocks. Between processes (gloo) they are
  matched by their order, which is the same everywhere only with one thread.
  """
  if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    several = "xla_force_host_platform_device_count=1 " not in os.environ["XLA_FLAGS"] + " "
  else:
    several = os.environ.get("JAX_NUM_CPU_DEVICES", "1") != "1"
  if several:
    os.environ.setdefault(_THREADS_VARIABLE, str(_THREADS_OF_SEVERAL_DEVICES))
  elif several_hosts:
    os.environ.setdefault(_THREADS_VARIABLE, "1")


@functools.cache  # A process needs it once, however many runs it has.
def _quiet_libraries() -> None:
  """Our own log lines and everybody's warnings."""
  ours = str(pathlib.Path(__file__).parent.parent)

  def wanted(record: std_logging.LogRecord) -> bool:
    # Orbax, the only one that uses asyncio here, raises the same where the save is waited for.
    if record.exc_info and (record.name == "asyncio" or "orbax" in record.pathname):
      return False
    return record.levelno >= std_logging.WARNING or record.pathname.startswith(ours)

  jax.monitoring.register_event_duration_secs_listener(_give_back_memory)
  flags.FLAGS.mark_as_parsed()  # We have none; absl warns on stderr when they are not parsed.
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.addFilter(wanted)
  handler.setFormatter(std_logging.Formatter("%(levelname).1s %(asctime)s %(message)s", "%H:%M:%S"))
  show = sys.unraisablehook

  def show_but_late_writes(unraisable: Any) -> None:
    # After a save that failed Tensorstore's threads report each remaining array, with a
    # traceback, to an event loop that is closed by then.
    if str(unraisable.exc_value) != "Event loop is closed":
      show(unraisable)

  sys.unraisablehook = show_but_late_writes


_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_HOW = f"set {_VARIABLE} to a folder that can be written"


def use() -> None:
  """Turns the compilation cache on where there is a folder for it; problems are logged once."""
  # Programs that compile in less are not worth a file.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
  show = warnings.showwarning
  logged = False

  def show_once(message: Any, *args: Any, **kwargs: Any) -> None:
    """JAX warns of every program that it cannot read or write; we of the first."""
    nonlocal logged
    if "persistent compilation cache" not in str(message):
      show(message, *args, **kwargs)
    elif not logged:
      logged = True
      text = " ".join(str(message).split())[:300]
      logging.warning("compiled programs are not kept, or not found again: %s", text)

  warnings.showwarning = show_once
  folder = os.environ.get(_VARIABLE)
  if not folder:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if home.startswith("~"):
      logging.warning(
        "compiled programs are not kept: there is no home folder (HOME is not set); %s", _HOW
      )
      return
    folder = os.path.join(home, "paligemma_jax", "jax")
  jax.config.update("jax_compilation_cache_dir", folder)
  if bucket.is_bucket(folder):
    bucket.path(folder)  # JAX reads and writes there by the same client.
    return
  try:
    workdirs.try_to_write(pathlib.Path(folder))
  except OSError as e:
    logged = True
    logging.warning("compiled programs are not kept in %s: %s; %s", folder, e.strerror or e, _HOW)
    if not os.path.isdir(folder):
      jax.config.update("jax_enable_compilation_cache", False)


# JAX takes 0.75 of a card unless told otherwise. NVIDIA's guide to JAX goes to 0.9: its libraries
# (cuDNN, NCCL) need what is left.
_SHARE, _LARGEST_SHARE = 0.75, 0.9
_SHARE_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def shares(gpu_bytes: float) -> tuple[int, int]:
  """Bytes of a GPU's that JAX takes for programs: by itself, and after `larger_share()`.

  Raises:
    ConfigError: the share that the environment asks for is no number above 0.
  """
  share = _share()
  return round(gpu_bytes * share), round(gpu_bytes * max(share, _LARGEST_SHARE))


def share_of(device: jax.Device) -> tuple[int, int]:
  """The same for a device that is there; 0 is unknown, and other devices have no shares."""
  limit = of_device(device)
  return shares(limit / _share()) if device.platform == "gpu" else (limit, limit)


def larger_share() -> str:
  """The shell's command that lets JAX take more of a GPU."""
  # JAX refuses to see both names.
  name = next((name for name in _SHARE_VARIABLES if os.environ.get(name)), _SHARE_VARIABLES[0])
  return f"export {name}={_LARGEST_SHARE}"


def helped(device: jax.Device, remedies: Sequence[str]) -> tuple[int, list[str]]:
  """The device's bytes for programs, and what helps where they run out: first of all, more."""
  by_itself, at_most = share_of(device)
  return by_itself, [*([f"`{larger_share()}`"] if at_most > by_itself else []), *remedies]


def _share() -> float:
  for name in _SHARE_VARIABLES:
    if text := os.environ.get(name):
      try:
        share = float(text)
      except ValueError:
        share = 0.0
      if not 0 < share < math.inf:
        raise errors.ConfigError(f"{name}={text!r} is no share of a GPU's memory; write .9.")
      return share
  return _SHARE


def of_device(device: jax.Device) -> int:
  """Bytes that a program can have there; 0 is unknown. CPU devices share the machine's."""
  if device.platform != "cpu":
    return int((device.memory_stats() or {}).get("bytes_limit", 0))
  ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return ram // jax.local_device_count()


@contextlib.contextmanager
def explained(remedies: Callable[[], Sequence[str]]) -> Iterator[None]:
  """What the machine refuses inside the block comes out as an error of ours.

  Args:
    remedies: what helps when the device has too little memory, the cheapest first.

  Raises:
    OutOfMemoryError: memory ran out, of a device or of the machine.
    StateError, WorkdirError: a file could not be written.
  """
  try:
    yield
  except errors.PaligemmaError:
    raise
  except Exception as e:
    if errors.translated(e) is None:
      raise
    memory_bytes, helps = helped(jax.local_devices()[0], remedies())
    raise errors.translated(e, remedies=helps, memory_bytes=memory_bytes) or e from e
