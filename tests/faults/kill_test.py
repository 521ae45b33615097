"""Killed anywhere and started again with the same command, a run leaves the same bits.

The short form for every change: four deaths of one run, two of them inside a save. The long form
(`python tools/kill_run.py --kills 50`) kills at random places.
"""

import re
import signal

import numpy as np
import pytest

from tests import run_train

TINY = "configs/tiny.py"


def assert_same_run(workdir, reference):
  assert run_train.metric_lines(workdir) == run_train.metric_lines(reference)
  state, expected = run_train.state_arrays(workdir), run_train.state_arrays(reference)
  assert state.keys() == expected.keys()
  assert any(name.startswith("opt_state") for name in state)
  for name, array in expected.items():
    np.testing.assert_array_equal(state[name], array, err_msg=name)
    assert state[name].dtype == array.dtype
  predictions = run_train.files_under(workdir / "predictions")
  assert predictions == run_train.files_under(reference / "predictions")


@pytest.mark.slow  # Six runs of the command, 60 s on two cores.
def test_killed_four_times_a_run_ends_with_the_same_bits(finished_run, tmp_path):
  workdir = tmp_path / "killed"
  deaths = [("SIGKILL", run_train.kill_at_step(2, TINY, workdir))]
  for fault in ("state.after_arrays", "state.after_seal"):
    died = run_train.run(TINY, workdir, PJ_FAULT=f"{fault}:exit@1")
    assert died.returncode == 9, died.stderr
    deaths.append((fault, run_train.last_step(workdir)))
  deaths.append(("SIGKILL", run_train.kill_at_step(9, TINY, workdir)))
  print("deaths:", deaths)
  # The kills landed where they were meant to: before any save, in saves, and after one.
  assert deaths[0][1] < 4 and 8 <= deaths[-1][1] < 12
  done = run_train.run(TINY, workdir)
  assert done.returncode == 0, done.stderr
  # Whether the save of step 8 was sealed before the last kill is up to the disk.
  assert re.search(r"going on from step [48] ", done.stderr), done.stderr
  assert_same_run(workdir, finished_run)


@pytest.mark.slow  # Two runs of the command.
def test_sigterm_saves_says_so_and_the_same_command_goes_on(finished_run, tmp_path):
  workdir = tmp_path / "asked"
  code, reached, stderr = run_train.interrupt_at_step(5, signal.SIGTERM, TINY, workdir)
  assert code == 75, stderr
  assert "The same command goes on" in stderr
  assert "Traceback" not in stderr
  assert 5 <= reached < 12
  done = run_train.run(TINY, workdir)
  assert done.returncode == 0, done.stderr
  # Every step has a line here anyway, so the step it stopped at adds none.
  assert_same_run(workdir, finished_run)


@pytest.mark.slow  # One more run of the command.
def test_a_finished_run_started_again_changes_nothing(finished_run):
  before = run_train.files_under(finished_run / "checkpoints")
  lines = run_train.metric_lines(finished_run)
  done = run_train.run(TINY, finished_run)
  assert done.returncode == 0, done.stderr
  assert "complete" in done.stderr
  assert run_train.files_under(finished_run / "checkpoints") == before
  assert run_train.metric_lines(finished_run) == lines
