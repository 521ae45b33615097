"""Bringing up JAX for a command: several hosts, the compilation cache, log lines."""

from __future__ import annotations

import ctypes
import logging as std_logging
import os
import pathlib
from typing import Any

import jax
from absl import flags
from absl import logging

from paligemma_jax.core import errors

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_THREADS_VARIABLE = "NPROC"  # Read by XLA when the CPU becomes a device.
_THREADS_OF_SEVERAL_DEVICES = 64
_LONG_COMPILE_SECS = 1.0


def start() -> None:
  """Joins the other hosts if there are any and turns on the compilation cache.

  Several hosts are found by JAX itself on a TPU pod, or named by JAX_COORDINATOR_ADDRESS,
  JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Raises:
    ConfigError: the hosts did not find each other.
  """
  _quiet_libraries()
  _choose_threads()
  jax.monitoring.register_event_duration_secs_listener(_give_back_memory)
  if not os.environ.get(_CACHE_VARIABLE):
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "paligemma_jax" / "jax"))
  # Programs that compile in less are not worth a file.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    try:
      jax.distributed.initialize(
          os.environ["JAX_COORDINATOR_ADDRESS"],
          int(os.environ["JAX_NUM_PROCESSES"]),
          int(os.environ["JAX_PROCESS_ID"]),
      )
    except (KeyError, ValueError, RuntimeError) as e:
      raise errors.ConfigError(
          "JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID must be too, and"
          f" all processes must start: {e}."
      ) from e
  elif int(os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",")) > 0:
    jax.distributed.initialize()


def _give_back_memory(event: str, secs: float, **_: Any) -> None:
  """Hands what a compilation took back to the system: half a GB after that of a training step.

  The C library would keep it, beside all that the step itself takes.
  """
  if "compil" in event and secs > _LONG_COMPILE_SECS:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
      trim(0)


def _choose_threads() -> None:
  """Sets the threads of XLA:CPU where CPU devices talk to each other.

  A device runs independent collectives of a program at once, as far as there are threads. Those of
  one process know each other by name, but each holds a thread until all devices have come: with a
  thread per core the pool can fill up with devices that wait for one that finds no thread, and a
  run on 8 virtual devices and 2 cores stands still for ever. Between processes (gloo) collectives
  are matched by the order they come in, which only one thread keeps the same everywhere.
  """
  if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    several = "xla_force_host_platform_device_count=1 " not in os.environ["XLA_FLAGS"] + " "
  else:
    several = os.environ.get("JAX_NUM_CPU_DEVICES", "1") != "1"
  if several:
    os.environ.setdefault(_THREADS_VARIABLE, str(_THREADS_OF_SEVERAL_DEVICES))
  elif "JAX_COORDINATOR_ADDRESS" in os.environ:
    os.environ.setdefault(_THREADS_VARIABLE, "1")


def _quiet_libraries() -> None:
  """Our own log lines and everybody's warnings; of other processes than the first only errors."""
  ours = str(pathlib.Path(__file__).parent.parent)
  first = os.environ.get("JAX_PROCESS_ID", "0") == "0"

  def wanted(record: std_logging.LogRecord) -> bool:
    if not first:
      return record.levelno >= std_logging.ERROR
    return record.levelno >= std_logging.WARNING or record.pathname.startswith(ours)

  flags.FLAGS.mark_as_parsed()  # We have none; absl warns on stderr when they are not parsed.
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.addFilter(wanted)
  handler.setFormatter(std_logging.Formatter("%(levelname).1s %(asctime)s %(message)s", "%H:%M:%S"))
