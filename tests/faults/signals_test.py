"""A run that is asked to stop ends with 75 and its finished step saved; a share of signals_run."""

import os
import signal
import subprocess
import time

import pytest

from tests import run_train
from tests.faults import signals_run


@pytest.mark.slow  # A run of the command each, of 10 s to 20 s.
@pytest.mark.parametrize(
  ("moment", "number"),
  [
    ("data stall", signal.SIGINT),
    ("evaluation, the score", signal.SIGTERM),
    pytest.param("last save", signal.SIGTERM, marks=pytest.mark.long),
    pytest.param("second signal", signal.SIGINT, marks=pytest.mark.long),
  ],
)
def test_a_signal_ends_the_run_in_time_with_the_finished_step_saved(moment, number, tmp_path):
  outcome = signals_run.stop(moment, number, tmp_path / "w")
  assert outcome.is_right, outcome


@pytest.mark.slow  # A run of the command with two worker processes each.
@pytest.mark.parametrize(
  "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_signal_that_all_processes_hear_as_in_a_terminal_saves_and_leaves_none(number, tmp_path):
  workdir, log = tmp_path / "w", tmp_path / "log"
  command = run_train.command(signals_run.CONFIG, workdir, "--config.train.num_workers=2")
  with open(log, "wb") as file:
    process = subprocess.Popen(
      command,
      cwd=run_train.ROOT,
      stdout=file,
      stderr=file,
      start_new_session=True,
      env={**os.environ, "SLOW": "train"},  # It waits for its workers from step 4 on.
    )
  try:
    while process.poll() is None and run_train.last_step(workdir) < 3:
      time.sleep(0.1)
    assert len(_children(process.pid)) >= 2
    os.killpg(process.pid, number)
    code = process.wait(signals_run.LIMIT_SECS)
    text = log.read_text(errors="replace")
    assert code == os.EX_TEMPFAIL, text
    assert signals_run.newest_intact(workdir) == 3
    assert "Traceback" not in text
    time.sleep(2.0)
    with pytest.raises(ProcessLookupError):
      os.killpg(process.pid, 0)
  finally:
    process.kill()


def _children(pid):
  done = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True)
  return done.stdout.split()
