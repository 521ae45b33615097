"""A disk of any size, to be filled; a test is skipped where the system lets us mount none."""

import contextlib
import os
import shutil
import subprocess

import pytest

FILLER = "filler"


@contextlib.contextmanager
def mounted(path, *, size):
  """The folder, of `size` as in '64k' or '30m' while the block lasts."""
  path.mkdir(parents=True)
  if shutil.which("mount") is None:
    pytest.skip("mount is not installed")
  command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
  try:
    yield path
  finally:
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(folder):
  """Takes all that is left of the disk; delete FILLER to give it back."""
  with open(folder / FILLER, "wb", buffering=0) as f, contextlib.suppress(OSError):
    while True:
      f.write(bytes(4096))
  assert os.statvfs(folder).f_bavail == 0
