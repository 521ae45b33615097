"""The converter keeps bits, and never writes over anything."""

import subprocess
import sys

import numpy as np
import pytest

from paligemma_jax.checkpoint import opening
from tests import golden_files
from tests import run_train


def convert(*args):
  return subprocess.run(
    [sys.executable, "tools/convert.py", *map(str, args)],
    cwd=run_train.ROOT,
    text=True,
    capture_output=True,
    check=False,
  )


def arrays(path):
  weights = opening.open_weights(path)
  return {name: weights.read(name) for name in weights.entries}


@pytest.mark.parametrize("format", ["npz", "native", "hf"])
def test_values_are_kept_to_the_bit(format, tmp_path):
  source = golden_files.path("bv/tiny.npz")
  done = convert(source, tmp_path / "out", "--format", format)
  assert done.returncode == 0, done.stderr
  before, after = arrays(source), arrays(tmp_path / "out")
  assert before.keys() == after.keys()
  for name, array in before.items():
    np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_what_exists_is_left_alone(tmp_path):
  (tmp_path / "mine.npz").write_text("precious")
  done = convert(golden_files.path("bv/tiny.npz"), tmp_path / "mine.npz", "--format", "npz")
  assert done.returncode == 78 and "mine.npz exists" in done.stderr
  assert (tmp_path / "mine.npz").read_text() == "precious"
