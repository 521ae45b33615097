"""Cloud TPU slices: the commands by gcloud's own parser, and a run that outlives its slice."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
import types

import pytest

from paligemma_jax import tpu
from paligemma_jax.checkpoint import manifest
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.launch import payload
from paligemma_jax.launch import slices
from tests import fake_cloud
from tests import run_train
from tests.faults import several
from tests.faults import several_hosts

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cloud_tpu.md"
needs_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
WHERE = ("--zone", "us-west4-a")
WORKDIR = ("--workdir", "gs://my-bucket/runs/vqav2")
TRAIN = ("--", "--config", "transfers/vqav2.py", *WORKDIR)


def printed(capsys, *argv):
  try:
    tpu.main(argv)
  except SystemExit as e:
    assert not e.code
  return capsys.readouterr().out


def test_a_dry_run_prints_what_the_page_shows(capsys, monkeypatch):
  monkeypatch.setattr(payload, "this_package", lambda: f"{payload.EXTRAS}==1.0")
  shown = printed(
    capsys, "run", "vqa", "--type", "v5litepod-32", *WHERE, "--spot", "--dry_run", *TRAIN
  )
  assert f"```\n{shown}```" in PAGE.read_text()


def commands_of_the_page():
  lines = PAGE.read_text().replace("\\\n", " ").splitlines()
  found = [line.partition(" > ")[0] for line in lines if line.startswith("paligemma-jax tpu ")]
  return [shlex.split(line)[2:] for line in found]


@pytest.mark.parametrize("argv", commands_of_the_page(), ids=lambda argv: argv[0])
def test_every_command_of_the_page_is_one(argv, capsys):
  at = argv.index("--") if "--" in argv else len(argv)
  extra = ["--package", "x"] if "--emit" in argv else ["--dry_run"]
  shown = printed(capsys, *argv[:at], *extra, *argv[at:])
  assert "vqa" in shown and ("--emit" in argv or shown.startswith("+ gcloud compute tpus"))


@pytest.mark.parametrize(
  "argv, why",
  [
    (("run", "a", "--type", "v9-8", *WHERE, "--dry_run", *TRAIN), "none of v4-N, v5litepod-N"),
    (("train", "a", *WHERE, "--", "--config", "c.py", "--workdir", "runs/a"), "name a bucket"),
    (("train", "a", *WHERE, "--", "--config", "c.py"), "name a bucket"),
    (("delete", "a", *WHERE, "--", "--config", "c.py"), "not for delete"),
  ],
)
def test_what_cannot_work_is_told_before_anything_is_done(argv, why):
  with pytest.raises(errors.ConfigError, match=re.escape(why)):
    tpu.main(argv)


def test_config_files_are_sent_by_their_relative_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "config.py").write_text("")
  found = payload.files_of(["--config=mine/config.py:tune=lora", "--workdir", "gs://abc/x"])
  assert found == ["mine/config.py"]
  assert payload.files_of(["--config", "transfers/vqav2.py"]) == []  # It is in the package.
  with pytest.raises(errors.ConfigError, match="relative path"):
    payload.files_of([f"--config={tmp_path}/mine/config.py"])


@pytest.mark.parametrize(
  "origin, version, want",
  [
    ({"url": "https://a.b/c", "vcs_info": {"vcs": "git", "commit_id": "1f"}}, "1.0",
     "paligemma-jax[tpu,gs] @ git+https://a.b/c@1f"),
    ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "1.0", "/a b"),
    ({}, "1.0", "paligemma-jax[tpu,gs]==1.0"),
  ],
)  # fmt: skip
def test_hosts_get_the_package_that_runs_here(origin, version, want, monkeypatch):
  found = types.SimpleNamespace(version=version, read_text=lambda name: json.dumps(origin))
  monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)
  assert payload.this_package() == want


def test_the_exit_code_of_a_run_is_that_of_the_host_that_failed():
  assert tpu._of_all([0, 0]) == 0
  assert tpu._of_all([69, 74, 69]) == 74
  assert tpu._of_all([137, 69]) == 137
  assert tpu._of_all([75, 75]) == 75


def emitted(capsys, kind):
  package = ("--package", f"{payload.EXTRAS} @ git+https://a.b/c")
  argv = ("run", "vqa", "--type", "v5litepod-16", *WHERE, "--spot", *package, "--emit", kind)
  return printed(capsys, *argv, *TRAIN)


def test_a_skypilot_task_is_what_skypilot_reads(capsys, tmp_path):
  text = emitted(capsys, "skypilot")
  yaml = pytest.importorskip("yaml")
  task = yaml.safe_load(text)
  assert task["resources"]["accelerators"] == "tpu-v5litepod-16"
  assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [69, 75]
  assert task["run"].strip().endswith(" ".join(TRAIN[1:]))
  sky = pytest.importorskip("sky")
  (tmp_path / "task.yaml").write_text(text)
  read = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
  assert next(iter(read.resources)).use_spot and read.num_nodes == 1


def test_an_xpk_command_is_what_xpk_reads(capsys):
  words = subprocess.run(
    ["bash", "-c", f"printf '%s\\0' {emitted(capsys, 'xpk')}"], capture_output=True, check=True
  )
  command = words.stdout.decode().split("\0")[:-1]
  assert command[:3] == ["xpk", "workload", "create"]
  assert command[-1].endswith(" ".join(TRAIN[1:]))
  core = pytest.importorskip("xpk.parser.core")
  parser = argparse.ArgumentParser()
  core.set_parser(parser)
  args = parser.parse_args(command[1:])
  assert args.tpu_type == "v5litepod-16" and args.max_restarts == "100" and args.spot
  assert args.restart_on_exit_codes == "69,75"


@needs_gcloud
@pytest.mark.slow  # Two starts of gcloud, 3 s.
def test_the_bucket_of_the_page_is_made_and_filled(tmp_path, gcs):
  blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
  (block,) = [block for block in blocks if "gcloud storage" in block]
  (tmp_path / "pt_224.npz").write_bytes(b"weights")
  with fake_cloud.running(tmp_path):
    storage = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{gcs.address}/storage/v1/"}
    before = len(gcs.requests())
    subprocess.run(
      ["bash", "-ec", block],
      check=True, capture_output=True, cwd=tmp_path, env={**slices._environment(), **storage},
    )  # fmt: skip
  assert ["POST", "/storage/v1/b"] in gcs.requests()[before:]
  assert bucket.read("gs://my-bucket/weights/pt_224.npz", max_bytes=9) == b"weights"


@needs_gcloud
@pytest.mark.slow  # A dozen starts of gcloud.
def test_gcloud_takes_the_commands_and_the_cloud_gets_them(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(tpu, "_POLL_SECS", 0.1)
  with fake_cloud.running(tmp_path) as cloud:
    shown = printed(capsys, "create", "vqa", "--type", "v5litepod-16", *WHERE, "--spot")
    assert "queued-resources create vqa" in shown
    assert printed(capsys, "status", "vqa", *WHERE) == "vqa: READY\n"
    assert "is there already, and READY" in printed(
      capsys, "create", "vqa", "--type", "v5litepod-16", *WHERE
    )
    printed(capsys, "delete", "vqa", *WHERE)
    assert "there is no such slice" in printed(capsys, "status", "vqa", *WHERE)
    changes = [r for r in cloud.requests() if "queued" in r and not r.startswith("GET")]
    place = "/v2/projects/p/locations/us-west4-a/queuedResources"
    assert [r.partition("?")[0] for r in changes] == [f"POST {place}", f"DELETE {place}/vqa"]
    assert "queuedResourceId=vqa" in changes[0] and "force=True" in changes[1]
    subprocess.run(
      ["gcloud", "compute", "tpus", "tpu-vm", "create", "theirs", "--accelerator-type=v5litepod-8",
       "--version=x", "--zone=us-west4-a"],
      check=True, capture_output=True, env=slices._environment(),
    )  # fmt: skip
    for argv in (("delete", "theirs"), ("create", "theirs", "--type", "v5litepod-8")):
      with pytest.raises(errors.ConfigError, match="was not created by `paligemma-jax tpu`"):
        tpu.main((*argv, *WHERE))


_RUN = "import sys; from paligemma_jax import tpu; tpu._POLL_SECS = 1.0; tpu.main(sys.argv[1:])"


@needs_gcloud
@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
@pytest.mark.long  # Four hosts, twice, and forty starts of gcloud: minutes.
def test_a_run_of_four_hosts_outlives_its_slice(tmp_path, gcs):
  root = bucket.path(f"gs://test-bucket/{tmp_path.name}")
  story = several_hosts.Story(tmp_path / "story")
  for file in story.data.iterdir():
    bucket.write(root / "data" / file.name, file.read_bytes())
  (tmp_path / "small.py").write_text(several.SMALL)
  config = f"small.py:data={root}/data,total=30 steps,save=10 steps"
  hosts = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:8476", "JAX_NUM_PROCESSES": "4"}
  command = [
    sys.executable, "-c", _RUN, "run", "vqa", "--type", "v5litepod-16", *WHERE, "--spot",
    "--package", str(ROOT), "--", "--config", config, "--workdir", f"{root}/run",
  ]  # fmt: skip
  with (
    fake_cloud.running(tmp_path / "cloud") as cloud,
    open(tmp_path / "out", "w+") as out,
    subprocess.Popen(
      command,
      cwd=tmp_path,
      env={**os.environ, **hosts, "PYTHONPATH": str(ROOT)},
      stdout=out,
      stderr=subprocess.STDOUT,
    ) as launcher,
  ):
    wait_for(lambda: manifest.steps_in(root / "run" / "checkpoints"), launcher, out)
    cloud.preempt("vqa")
    assert launcher.wait(900) == 0, tail(out)
    changes = [r for r in cloud.requests() if not r.startswith("GET")]
    text = tail(out, 1 << 20)
  assert "was preempted: a new slice goes on with the run" in text
  assert "was destroyed but it is pending" not in text
  assert re.search(r"^t1v-n-0-w-0: .*going on from step [12]0", text, re.MULTILINE)
  assert {f"t1v-n-0-w-{i}" for i in range(4)} <= set(re.findall(r"^(t1v-n-0-w-\d): ", text, re.M))
  assert [r.split()[0] for r in changes if "queuedResources" in r] == ["POST", "DELETE"] * 2
  whole = run_train.run_together(4, f"{tmp_path}/{config}", root / "whole")
  assert [done.returncode for done in whole] == [0] * 4, whole[0].stderr[-2000:]
  assert run_train.metric_lines(root / "run") == run_train.metric_lines(root / "whole")


def wait_for(condition, process, out):
  begin = time.monotonic()
  while not condition():
    assert process.poll() is None and time.monotonic() - begin < 600, tail(out)
    time.sleep(0.5)


def tail(file, num=4000):
  file.seek(0)
  return file.read()[-num:]
