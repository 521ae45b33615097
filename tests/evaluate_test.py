"""python -m paligemma_jax.evaluate, as a user runs it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import run_train

_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" "$0" && exec "$@"'


def _evaluate(*args, wrap=()):
  return subprocess.run(
    [*wrap, sys.executable, "-m", "paligemma_jax.evaluate", *map(str, args)],
    cwd=run_train.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    text=True,
    capture_output=True,
    check=False,
  )


def _scores(done):
  assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
  return json.loads(done.stdout)


@pytest.mark.slow  # Two runs of the command beside the finished run.
def test_a_run_that_cannot_be_written_is_scored_and_files_go_where_they_may(finished_run, tmp_path):
  wrap = ["unshare", "-m", "sh", "-c", _READ_ONLY, str(finished_run)]
  if not shutil.which("unshare") or subprocess.run([*wrap, "true"], check=False).returncode:
    pytest.skip("a folder cannot be made read-only here")
  before = run_train.files_under(finished_run)
  done = _evaluate("--workdir", finished_run, wrap=wrap)
  scores = _scores(done)
  assert scores["step"] == 12 and scores["val/loss/loss"] > 0
  assert done.stderr.count("evaluators write no files") == 1 and "--out" in done.stderr
  elsewhere = tmp_path / "deep" / "files"
  again = _evaluate("--workdir", finished_run, "--out", elsewhere, wrap=wrap)
  assert _scores(again) == scores and "write no files" not in again.stderr
  assert list(run_train.files_under(elsewhere)) == ["val/pred-12.jsonl"]
  assert run_train.files_under(finished_run) == before


def test_an_out_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
  (tmp_path / "file").write_text("")
  done = _evaluate("--config", "configs/tiny.py", "--out", tmp_path / "file")
  assert done.returncode == 73 and "Traceback" not in done.stderr
  assert done.stderr.startswith(f"error: The folder '{tmp_path / 'file'}' cannot be made")


@pytest.mark.slow  # Two runs of the command beside the finished run.
def test_a_run_with_a_tracker_of_ones_own_is_scored_without_its_code(finished_run, tmp_path):
  shutil.copytree(finished_run, tmp_path / "run")
  config = json.loads((finished_run / "config.json").read_text())
  config["log"]["trackers"] = [{"__spec__": "mine:Database", "path": "runs.sqlite"}]
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  assert _scores(_evaluate("--workdir", tmp_path / "run"))["step"] == 12
  config["evals"][0]["__spec__"] = "mine:Metric"
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  refused = _evaluate("--workdir", tmp_path / "run")
  assert refused.returncode == 78 and "--allow_code" in refused.stderr
