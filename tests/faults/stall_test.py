"""Whatever stops in the reading of rows, the command says which row or worker and ends with 66."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import pytest

from tests import run_train
from tests.faults import own_ops

STALL_SECS = 12
MARGIN_SECS = 10


def _pids(folder):
  return [int(p.name.removeprefix("pid-")) for p in folder.glob("pid-*")]


def _is_alive(pid):
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def _started(config, arguments, workdir, *flags):
  workdir.mkdir()
  with (
    open(workdir / "log", "wb") as log,
    subprocess.Popen(
      run_train.command(
        f"{config}:total=100000 steps{arguments}",
        workdir,
        f"--config.train.stall_secs={STALL_SECS}",
        *flags,
      ),
      cwd=run_train.ROOT,
      stderr=log,
      stdout=log,
      start_new_session=True,
    ) as process,
  ):
    try:
      yield process
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _wait_until(fact, secs):
  end = time.monotonic() + secs
  while not fact():
    assert time.monotonic() < end
    time.sleep(0.05)


def _ended(process, workdir, since):
  """(the log, how long it took); fails when the process or one of its workers is left."""
  process.wait(timeout=120)
  secs = time.monotonic() - since
  log = (workdir / "log").read_text()
  assert process.returncode == 66, log
  assert "Traceback" not in log
  print(f"{workdir.name}: ended after {secs:.1f} s: {log[log.index('error:') :]}")
  return log, secs


@pytest.mark.long  # 25 s: a run that has compiled and then loses a worker.
def test_a_killed_worker_is_named_within_5_s(tmp_path):
  config, workdir = own_ops.write(tmp_path), tmp_path / "killed"
  with _started(config, ",evaluate=false", workdir, "--config.train.num_workers=2") as process:
    _wait_until(lambda: run_train.last_step(workdir) >= 3, 120)
    workers = [pid for pid in _pids(config.parent) if _is_alive(pid)]
    assert process.pid not in workers
    os.kill(workers[0], signal.SIGKILL)
    log, secs = _ended(process, workdir, time.monotonic())
    assert secs < 5 + MARGIN_SECS
    assert f"(pid {workers[0]}) of the loader was killed by SIGKILL while row " in log
    _wait_until(lambda: not any(map(_is_alive, workers)), 5)


@pytest.mark.long  # 25 s: an evaluation before the first step waits for its stall limit.
def test_the_limit_is_that_of_evaluations_too(tmp_path):
  config, workdir = own_ops.write(tmp_path), tmp_path / "evaluates"
  with _started(config, ",hang_at=22", workdir) as process:
    _wait_until((config.parent / "hangs").exists, 120)
    log, secs = _ended(process, workdir, time.monotonic())
    assert secs < STALL_SECS + MARGIN_SECS
    assert "error: evaluator 'val/loss' at step 0: The loader stalled: no row for 12 s" in log
    assert log.count("The loader stalled") == 1


@pytest.mark.slow  # 35 s each: a run that has compiled and then waits for its stall limit.
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_row_op_that_never_answers_ends_the_run_and_is_named(num_workers, tmp_path):
  config, workdir = own_ops.write(tmp_path), tmp_path / f"hangs_with_{num_workers}_workers"
  flag = f"--config.train.num_workers={num_workers}"
  with _started(config, ",hang_at=22,evaluate=false", workdir, flag) as process:
    _wait_until((config.parent / "hangs").exists, 120)
    # It hangs while the step is compiled; then the run goes on to the step that needs the row.
    _wait_until(lambda: run_train.last_step(workdir) >= 4 or process.poll() is not None, 120)
    log, secs = _ended(process, workdir, time.monotonic())
    assert secs < STALL_SECS + MARGIN_SECS
    error = log[log.index("error: The loader stalled: no row for ") :]
    assert "waiting for row 22 (" in error
    assert "rows.jsonl:23)" in error
    if num_workers:
      assert "which worker process " in error
    _wait_until(lambda: not any(map(_is_alive, _pids(config.parent))), 5)
