"""The TPU's own kernel for attention compiles as part of the step, without a TPU."""

import importlib.util
import json
import subprocess
import sys

import pytest

from paligemma_jax.planning import runs
from paligemma_jax.planning import targets


@pytest.mark.slow  # 15 s each
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs pip install -r requirements/plan.txt"
)
@pytest.mark.parametrize(
  "on, axes", [("v5e-1", []), ("v5e-4", [["fsdp", 2], ["tensor", 2]])], ids=["chip", "mesh"]
)
def test_the_step_with_kernels_compiles(on, axes):
  done = subprocess.run(
    [sys.executable, "-m", "tests.planning.kernels_run", on, json.dumps(axes)],
    env=runs._environment(targets.get(on), -1.0),
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  # Each tower has one forward and two in its backward pass.
  assert int(done.stdout.splitlines()[-1]) >= 6
