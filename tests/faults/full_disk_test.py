"""A disk that fills up during a run: a sentence, not a wall of tracebacks, and nothing lost."""

import json
import os
import re
import subprocess
import time

import pytest

from paligemma_jax.checkpoint import manifest
from tests import run_train
from tests import small_disk

TINY = "configs/tiny.py"
_CPU = {"JAX_PLATFORMS": "cpu"}  # Where a TPU's library is installed, it has remarks of its own.
_STEP_BYTES = 23 * 2**20  # Of a saved step of TINY, about.


def _steps(workdir):
  return sorted(manifest.steps_in(workdir / "checkpoints"))


def _check(done, workdir, *, code):
  """One sentence; what was saved is intact, and nothing lies beside it."""
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr and "Event loop" not in done.stderr
  assert re.search(r"error: .*no space left", done.stderr, re.IGNORECASE), done.stderr
  assert [p.name for p in workdir.rglob(".*") if ".writable" in p.name or ".tmp" in p.name] == []
  for step in _steps(workdir):
    manifest.verify_step(workdir / "checkpoints" / str(step))


def _remarks(done):
  """Lines that are no progress and no score."""
  usual = re.compile(r"step \d|  val/|initial|tiny at|rows checked")
  return [line for line in done.stderr.splitlines() if not usual.match(line)]


@pytest.mark.long  # Two runs of the command, on a disk of their own.
def test_room_for_one_step_ends_with_74_after_three_failed_saves_and_goes_on(tmp_path):
  with small_disk.mounted(tmp_path / "disk", size=str(_STEP_BYTES * 3 // 2)) as disk:
    workdir = disk / "run"
    done = run_train.run(f"{TINY}:steps=24", workdir, **_CPU)
    _check(done, workdir, code=74)
    assert _steps(workdir) == [4]
    logged = _remarks(done)
    assert [
      int(re.search(r"saving step (\d+) to .* failed: no space left", s)[1]) for s in logged
    ] == [8, 12, 16, 16]
    assert logged[-1].startswith("error: The state could not be saved 3 times in a row")
    subprocess.run(["mount", "-o", "remount,size=300m", str(disk)], check=True)
    again = run_train.run(f"{TINY}:steps=24", workdir, **_CPU)
    assert again.returncode == 0 and "going on from step 4 " in again.stderr
    assert 24 in _steps(workdir)


@pytest.mark.long  # 40 s: a run for each moment, and one more that ends it.
@pytest.mark.parametrize("moment", ["initial weights", "step 2/", "step 9/"])
def test_a_disk_that_fills_up_ends_a_run_with_a_sentence(tmp_path, moment):
  with small_disk.mounted(tmp_path / "disk", size="300m") as disk:
    workdir, log = disk / "run", tmp_path / "log"
    flags = ("--config.log.tensorboard=true",)
    with (
      open(log, "w") as out,
      subprocess.Popen(
        run_train.command(TINY, workdir, *flags),
        cwd=run_train.ROOT,
        stderr=out,
        text=True,
        env={**os.environ, **_CPU},
      ) as process,
    ):
      while process.poll() is None and moment not in log.read_text():
        time.sleep(0.01)
      small_disk.fill(disk)
      process.wait(timeout=200)
    done = subprocess.CompletedProcess([], process.returncode, "", log.read_text())
    _check(done, workdir, code=74)
    assert len(_remarks(done)) <= 5, done.stderr
    (disk / small_disk.FILLER).unlink()
    again = run_train.run(TINY, workdir, *flags, **_CPU)
    assert again.returncode == 0, again.stderr
    lines = [json.loads(line) for line in run_train.metric_lines(workdir)]
    assert [line["step"] for line in lines] == list(range(13))
