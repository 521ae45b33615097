"""Errors of the system and of JAX that a user can do something about, as errors of ours.

Memory that ran out, of a device or of the machine; a disk that is full; a file that the system does
not let us have. They come up anywhere, so commands translate them where they end.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from collections.abc import Sequence

from paligemma_jax.core import errors

_FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "the disk quota is used up"}
_DENIED = {
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EFBIG,
  errno.EIO,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.ESTALE,
  errno.EISDIR,
  errno.ENOTDIR,
}
_FULL_TEXT = re.compile(r"No space left on device|Disk quota exceeded")
_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|OUT_OF_MEMORY|[Oo]ut of memory|bad_alloc")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+) ?([KMGT]?)i?(?:B|bytes?|\b)"
_ASKED = re.compile(rf"[Aa]llocat\w*\D{{0,60}}?{_SIZE}")
_NEEDED = re.compile(rf"[Uu]sed {_SIZE}")
_LIMIT = re.compile(rf"[Uu]sed [\d.]+[KMGT]? of {_SIZE}")
_SAID_LEN = 240


def translated(
  error: BaseException, *, remedies: Sequence[str] = (), memory_bytes: int = 0
) -> errors.PaligemmaError | None:
  """The error as one of ours, or None where it is none of the machine's.

  Args:
    error: with what it was raised from.
    remedies: of a device that has too little memory, the cheapest first.
    memory_bytes: that the device has; 0 is unknown.
  """
  if isinstance(error, errors.PaligemmaError):
    return error
  chain = list(_chain(error))
  for e in chain:
    if why := full_disk(e):
      name = f" {e.filename!r}" if isinstance(e, OSError) and e.filename else ""
      return errors.StateError(f"A file{name} cannot be written: {why}. Free some.")
  for e in chain:
    if isinstance(e, MemoryError):
      return errors.OutOfMemoryError(
        f"This machine ran out of memory ({_said(e) or 'MemoryError'}). What helps: fewer workers"
        " and threads of the loader, smaller batches, or a machine with more memory."
      )
    if type(e).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and _OUT_OF_MEMORY.search(str(e)):
      return _out_of_memory(str(e), remedies, memory_bytes)
  for e in chain:
    if isinstance(e, OSError) and e.errno in _DENIED and e.filename:
      denied = f"{e.filename!r} cannot be used: {e.strerror}."
      return errors.WorkdirError(denied) if e.errno == errno.EROFS else errors.StateError(denied)
  return None


def full_disk(error: BaseException) -> str:
  """'no space left on the disk' where that is why, also where a library only says so; else ''."""
  if isinstance(error, OSError) and error.errno in _FULL:
    return _FULL[error.errno]
  found = _FULL_TEXT.search(str(error))
  if not found:
    return ""
  return _FULL[errno.EDQUOT if "quota" in found[0] else errno.ENOSPC]


def gib(num_bytes: float) -> str:
  """Bytes as people read them."""
  return f"{num_bytes / 2**30:.2f} GiB"


def _out_of_memory(said: str, remedies: Sequence[str], memory_bytes: int) -> errors.PaligemmaError:
  needed, asked = _bytes(_NEEDED, said), _bytes(_ASKED, said)
  limit = _bytes(_LIMIT, said) or memory_bytes
  facts = [f"it has {gib(limit)}"] if limit else []
  if needed:
    facts.append(f"the program needs {gib(needed)}")
  elif asked:
    facts.append(f"{gib(asked)} more were asked for")
  found = f": {', '.join(facts)}" if facts else ""
  first = " ".join(said.partition("\n")[0].split())[:_SAID_LEN]
  helps = f" What helps, the cheapest first: {'; '.join(remedies)}." if remedies else ""
  return errors.OutOfMemoryError(f"The device ran out of memory{found}.{helps} JAX said: {first!r}")


def _bytes(pattern: re.Pattern[str], said: str) -> int:
  found = pattern.search(said)
  return round(float(found[1].strip(".") or 0) * _UNITS[found[2]]) if found else 0


def _said(error: BaseException) -> str:
  return " ".join(str(error).split())[:_SAID_LEN]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """The error and what it came from, the outermost first."""
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
