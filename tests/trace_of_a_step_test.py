"""How much of our code a fine-tuning step runs: what a reader has to know has a bound."""

import json
import subprocess
import sys

import pytest

from tests import trace_of_a_step

FUNCTIONS, FILES = 268, 48  # Of the steps; 262 in 46 were counted, and threads differ by a few.
RUN_FUNCTIONS, RUN_FILES = 498, 66  # 492 in 64.


@pytest.mark.slow  # One run of two steps, traced.
def test_a_fine_tuning_step_runs_few_of_our_functions_in_few_files():
  done = subprocess.run(
    [sys.executable, "-m", "tests.trace_of_a_step"],
    cwd=trace_of_a_step.ROOT,
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  counts = json.loads(done.stdout.splitlines()[-1])
  # Both ends are there: the rows' reading in its threads, and the model.
  assert counts["steps"]["functions"] > 100
  assert counts["steps"]["functions"] <= FUNCTIONS and counts["steps"]["files"] <= FILES, counts
  assert counts["run"]["functions"] <= RUN_FUNCTIONS and counts["run"]["files"] <= RUN_FILES, counts
