"""The types of the package hold."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow  # Reads the whole package, 25 s.
def test_mypy_finds_no_error(tmp_path):
  command = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
