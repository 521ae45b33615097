"""A device that runs out of memory: what it has, and what a command says then."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import jax

from paligemma_jax.core import errors
from paligemma_jax.core import system_errors


def of_device(device: jax.Device) -> int:
  """Bytes that a program can have there; 0 is unknown. CPU devices share out the machine's."""
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
    if system_errors.translated(e) is None:
      raise
    ours = system_errors.translated(
      e, remedies=remedies(), memory_bytes=of_device(jax.local_devices()[0])
    )
    raise ours from e
