"""Memory in pages of 2 MiB where Linux gives them to those who ask: steps on a CPU in 0.8 the time.

XLA:CPU takes the memory of a program's temporaries anew at every run. In pages of 4 KiB a step of
1.5 GB has half a million page faults, which are a sixth of its processor time.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = "/sys/kernel/mm/transparent_hugepage/enabled"


def use() -> None:
  """Starts this program again, as the same process, with an allocator that asks for huge pages.

  The C library reads that wish when a process begins and never again. Nothing happens where it
  would not help, and where GLIBC_TUNABLES says anything of it: glibc.malloc.hugetlb=0 is a no.
  To be called first, before there are threads, open files or output.
  """
  tunables = os.environ.get(_VARIABLE, "")
  if _TUNABLE in tunables or not sys.executable or not _are_given_on_request():
    return
  wanted = ":".join(part for part in (tunables, f"{_TUNABLE}=1") if part)
  try:
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, _VARIABLE: wanted})
  except OSError:
    return  # Then with small pages.


def _are_given_on_request() -> bool:
  try:
    with open(_KERNEL, encoding="ascii") as f:
      return "[madvise]" in f.read() and os.confstr("CS_GNU_LIBC_VERSION") is not None
  except (OSError, ValueError, AttributeError):  # Another system, or another C library.
    return False
