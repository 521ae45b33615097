"""Row ops of a config file work wherever the file lies: in worker processes and in `evaluate`."""

import json
import shutil
import subprocess
import sys

import pytest

from paligemma_jax.trainer import metrics
from tests import run_train
from tests.faults import own_ops


def _evaluate(*flags):
  return subprocess.run(
    [sys.executable, "-m", "paligemma_jax.evaluate", *map(str, flags)],
    cwd=run_train.ROOT,
    text=True,
    capture_output=True,
    timeout=300,
    check=False,
  )


@pytest.mark.long  # 60 s: two runs and three evaluations of a small model.
def test_an_own_op_works_in_workers_in_evaluate_and_when_its_file_has_moved(tmp_path):
  config = own_ops.write(tmp_path)
  for name, workers in (("plain", 0), ("workers", 2)):
    flag = f"--config.train.num_workers={workers}"
    done = run_train.run(str(config), tmp_path / name, flag)
    assert done.returncode == 0, done.stderr
  assert run_train.metric_lines(tmp_path / "plain") == run_train.metric_lines(tmp_path / "workers")
  expected = metrics.read(tmp_path / "plain" / "metrics.jsonl")[-1]["val/loss/loss"]

  refused = _evaluate("--workdir", tmp_path / "plain")
  assert refused.returncode == 78
  assert "--config" in refused.stderr
  assert "--allow_code" in refused.stderr
  assert "Traceback" not in refused.stderr
  (tmp_path / "elsewhere").mkdir()
  moved = shutil.move(config.parent, tmp_path / "elsewhere" / "its-new place")
  lost = _evaluate("--workdir", tmp_path / "plain", "--allow_code")
  assert lost.returncode == 78
  assert "--config" in lost.stderr
  assert "Traceback" not in lost.stderr
  named = _evaluate("--workdir", tmp_path / "plain", "--config", f"{moved}/own-op.py")
  assert named.returncode == 0, named.stderr
  assert json.loads(named.stdout)["val/loss/loss"] == pytest.approx(expected, rel=1e-6)
  shutil.move(moved, config.parent)
  allowed = _evaluate("--workdir", tmp_path / "plain", "--allow_code")
  assert allowed.returncode == 0, allowed.stderr
  assert json.loads(allowed.stdout)["val/loss/loss"] == json.loads(named.stdout)["val/loss/loss"]
