"""A run in a bucket, by the commands: train, stop, go on, evaluate, predict, convert, load."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import opening
from paligemma_jax.core import bucket
from tests import run_train

pytestmark = pytest.mark.slow  # A dozen starts of commands.


@pytest.fixture(scope="module")
def finished(gcs_server):
  """A finished run of configs/tiny.py."""
  gcs_server.plan()
  root = bucket.path("gs://test-bucket/bucket_run")
  done = run_train.run("configs/tiny.py", root / "run")
  assert done.returncode == 0, done.stderr[-3000:]
  return root


def call(command, *args):
  return subprocess.run(
    [sys.executable, "-m", f"paligemma_jax.{command}", *map(str, args)],
    cwd=run_train.ROOT,
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )


def test_it_leaves_what_a_local_run_leaves(finished, finished_run):
  local = {str(p.relative_to(finished_run)) for p in finished_run.rglob("*") if p.is_file()}
  kept = {name for name in local if "/state/" not in name and "tfevents" not in name}
  assert {n for n in bucket.listing(finished / "run") if "/state/" not in n} >= kept
  assert run_train.metric_lines(finished / "run") == run_train.metric_lines(finished_run)
  ours, theirs = (run_train.state_arrays(run) for run in (finished / "run", finished_run))
  assert all(np.array_equal(ours[name], array) for name, array in theirs.items())


@pytest.mark.long
def test_it_is_evaluated_answered_with_converted_and_loaded(finished, tmp_path):
  run = finished / "run"
  done = call("evaluate", "--workdir", run)
  assert done.returncode == 0 and "val/loss" in done.stdout, done.stderr[-2000:]
  out = finished / "answers.jsonl"
  images = [tmp_path / "a.png", tmp_path / "b.png"]
  for path in images:
    Image.new("RGB", (32, 32), (40, 60, 200)).save(path)
  done = call(
    "predict", "--ckpt", run, "--prompt", "caption en", "--out", out, "--max_new_tokens", 2, *images
  )
  assert done.returncode == 0, done.stderr[-2000:]
  lines = bucket.read(out, max_bytes=1 << 20).splitlines()
  assert [json.loads(line)["row"] for line in lines] == list(range(len(images)))
  want = {n: opening.open_weights(run).read(n) for n in opening.open_weights(run).entries}
  for form, target in (("npz", "w.npz"), ("native", "native"), ("hf", "hf")):
    done = call("convert", run, finished / target, "--format", form)
    assert done.returncode == 0, done.stderr[-2000:]
    found = opening.open_weights(finished / target)
    assert found.entries.keys() == want.keys()
    assert all(np.array_equal(found.read(name), array) for name, array in want.items()), form


@pytest.mark.long
def test_a_stopped_run_goes_on_and_a_second_one_is_refused(finished):
  workdir = finished / "stopped"
  args = (
    "configs/tiny.py",
    workdir,
    "--config.train.total=40 steps",
    "--config.ckpt.every=20 steps",
    "--config.ckpt.keep=9",
  )
  with subprocess.Popen(
    run_train.command(*args), cwd=run_train.ROOT, stderr=subprocess.PIPE, text=True
  ) as first:
    while run_train.last_step(workdir) < 3:
      assert first.poll() is None, first.stderr.read()[-2000:]
      time.sleep(0.1)
    begin = time.monotonic()
    second = run_train.run(*args)
    assert second.returncode == 73 and f"process {first.pid} on " in second.stderr
    assert time.monotonic() - begin < 90  # With its start, on a busy machine.
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=120)
  assert first.returncode == 75
  # An evaluation that is cut short leaves the line of its step to the next start.
  reached = max(manifest.steps_in(workdir / "checkpoints"))
  assert reached < 40
  done = run_train.run(*args)
  assert done.returncode == 0, done.stderr[-2000:]
  assert f"going on from step {reached}" in done.stderr
  whole = run_train.run("configs/tiny.py", finished / "whole", *args[2:])
  assert whole.returncode == 0
  assert run_train.metric_lines(workdir) == run_train.metric_lines(finished / "whole")
  done = run_train.run(*args, "--resume_step", str(reached))
  assert done.returncode == 0, done.stderr[-2000:]
  assert any("set_aside" in name for name in bucket.listing(workdir))
  assert run_train.metric_lines(workdir) == run_train.metric_lines(finished / "whole")


def test_a_bucket_that_refuses_is_told_at_the_start(gcs):
  gcs.plan(dict(method="POST", path="forbidden", status=403))
  done = run_train.run("configs/tiny.py", "gs://test-bucket/forbidden")
  assert done.returncode == 73, done.stderr[-2000:]
  assert "The store refuses it" in done.stderr and "Traceback" not in done.stderr
