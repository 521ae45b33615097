"""A command starts again once with the allocator's wish set, as the same process."""

import os
import pathlib
import subprocess
import sys

import pytest

from paligemma_jax.core import process

ROOT = pathlib.Path(__file__).resolve().parents[2]
_NEEDS_GLIBC = pytest.mark.skipif(
  not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names,
  reason="another C library",
)
_PROGRAM = """
import os, sys
from paligemma_jax.core import process
print("begins", flush=True)
process._KERNEL = sys.argv[1]
process.use_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[2:])
"""


def _run(tmp_path, kernel, tunables):
  """(number of starts, whether the process is the one that was started, the rest it says)."""
  switch = tmp_path / "enabled"
  switch.write_text(kernel)
  env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
  if tunables is not None:
    env["GLIBC_TUNABLES"] = tunables
  process = subprocess.Popen(
    [sys.executable, "-c", _PROGRAM, str(switch), "--flag", "two words"],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    text=True,
  )
  *begins, logged = process.communicate(timeout=60)[0].splitlines()
  assert process.returncode == 0
  pid, _, rest = logged.partition(" ")
  return len(begins), int(pid) == process.pid, rest


@_NEEDS_GLIBC
@pytest.mark.parametrize(
  "before, after",
  [
    (None, "glibc.malloc.hugetlb=1"),
    ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
  ],
)
def test_it_starts_again_once_with_the_same_arguments(tmp_path, before, after):
  found = _run(tmp_path, "always [madvise] never\n", before)
  assert found == (2, True, f"{after} --flag two words")


@pytest.mark.parametrize(
  "kernel, tunables",
  [
    ("always [madvise] never\n", "glibc.malloc.hugetlb=0"),
    ("[always] madvise never\n", None),
    ("always madvise [never]\n", None),
  ],
)
def test_it_does_not_where_it_would_not_help_or_was_told_not_to(tmp_path, kernel, tunables):
  assert _run(tmp_path, kernel, tunables) == (1, True, f"{tunables} --flag two words")


def test_it_does_not_on_a_system_without_them(monkeypatch):
  monkeypatch.setattr(process, "_KERNEL", "/nowhere/enabled")
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it was started again"))
  process.use_huge_pages()
