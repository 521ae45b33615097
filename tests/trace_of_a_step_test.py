"""How much of our code a fine-tuning step runs, and that docs/code_map.md names what it runs."""

import json
import re
import subprocess
import sys

import pytest

from tests import trace_of_a_step

FUNCTIONS, FILES = 260, 48  # Of the steps; 259 in 48 were counted, and threads differ by a few.
RUN_FUNCTIONS, RUN_FILES = 510, 68  # 504 in 68.
HOPS = 14  # From a line of JSON to the loss.

pytestmark = pytest.mark.slow  # One run of two steps, traced.


@pytest.fixture(scope="module")
def traced():
  """The counts, and {"file:function"} of the steps."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.trace_of_a_step", "--list"],
    cwd=trace_of_a_step.ROOT,
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  *lines, counts = done.stdout.splitlines()
  return json.loads(counts), {":".join(l.split()[1:]) for l in lines if l.startswith("steps")}


def test_a_fine_tuning_step_runs_few_of_our_functions_in_few_files(traced):
  counts, _ = traced
  # Both ends are there: the rows' reading in its threads, and the model.
  assert counts["steps"]["functions"] > 100
  assert counts["steps"]["functions"] <= FUNCTIONS and counts["steps"]["files"] <= FILES, counts
  assert counts["run"]["functions"] <= RUN_FUNCTIONS and counts["run"]["files"] <= RUN_FILES, counts


def test_the_map_of_the_code_names_what_a_step_runs(traced):
  page = (trace_of_a_step.ROOT / "docs" / "code_map.md").read_text(encoding="utf-8")
  hops = re.findall(r"^\| \d+ \|.*`(.*?)` \|$", page, re.M)
  assert 10 <= len(hops) <= HOPS
  assert not [hop for hop in hops if hop not in traced[1]]
