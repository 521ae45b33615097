"""The workdir: who may write, who has it, and what happens when that one dies."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from paligemma_jax.core import errors
from paligemma_jax.trainer import workdir
from tests import small_disk

_HOLD = """
import sys, time
from paligemma_jax.trainer import workdir
with workdir.opened(sys.argv[1], main=True):
  print("locked", flush=True)
  time.sleep(60)
"""

_FORK = """
import os, sys, time
from paligemma_jax.trainer import workdir
with workdir.opened(sys.argv[1], main=True):
  child = os.fork()
  if not child:
    os.close(1)
    time.sleep(60)
    os._exit(0)
  print(child, flush=True)
  os._exit(0)
"""

_TRY = """
import sys
from paligemma_jax.core import errors
from paligemma_jax.trainer import workdir
def main():
  with workdir.opened(sys.argv[1], main=True):
    pass
errors.run_main(main)
"""


def _hold(path):
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "locked\n"
  return process


def test_a_second_run_leaves_with_73_within_5_seconds_and_names_the_first(tmp_path):
  first = _hold(tmp_path)
  try:
    start = time.monotonic()
    second = subprocess.run(
      [sys.executable, "-c", _TRY, str(tmp_path)], capture_output=True, text=True
    )
    assert time.monotonic() - start < 5
    assert second.returncode == 73
    holder = json.loads((tmp_path / "lock").read_text())
    assert f"process {first.pid} on {holder['host']} since {holder['since']}" in second.stderr
    assert "Traceback" not in second.stderr
  finally:
    first.kill()
    first.wait()
  # Nothing was tidied up, and the folder is free all the same.
  third = subprocess.run([sys.executable, "-c", _TRY, str(tmp_path)], capture_output=True)
  assert third.returncode == 0


def test_the_lock_of_a_process_that_dies_while_another_waits_is_taken_over(tmp_path):
  first = _hold(tmp_path)
  first.send_signal(signal.SIGSTOP)
  waiting = subprocess.Popen([sys.executable, "-c", _TRY, str(tmp_path)])
  time.sleep(0.5)
  first.kill()
  first.wait()
  assert waiting.wait(timeout=10) == 0


def test_a_forked_child_that_outlives_the_run_does_not_keep_the_folder(tmp_path):
  # In a process of its own: a fork beside JAX's threads could hang.
  run = subprocess.run(
    [sys.executable, "-c", _FORK, str(tmp_path)], stdout=subprocess.PIPE, text=True, timeout=30
  )
  child = int(run.stdout)
  try:
    os.kill(child, 0)  # It is still there.
    start = time.monotonic()
    with workdir.opened(tmp_path, main=True):
      assert time.monotonic() - start < 1
  finally:
    os.kill(child, signal.SIGKILL)


def test_one_process_cannot_open_a_folder_twice_and_can_after_closing_it(tmp_path):
  with workdir.opened(tmp_path, main=True):
    with pytest.raises(errors.WorkdirError, match=f"process {os.getpid()} "):
      with workdir.opened(tmp_path, main=True):
        pass
  with workdir.opened(tmp_path, main=True) as opened:
    assert opened.metrics == tmp_path / "metrics.jsonl"


def test_the_other_processes_of_a_run_neither_lock_nor_write(tmp_path):
  with workdir.opened(tmp_path / "run", main=False) as opened:
    assert opened.path == tmp_path / "run"
    assert not opened.path.exists()


def test_nothing_but_the_lock_is_made(tmp_path):
  with workdir.opened(tmp_path / "a" / "b", main=True):
    pass
  assert os.listdir(tmp_path / "a" / "b") == ["lock"]


@pytest.mark.parametrize("place", ["file", "file/below", "link"])
def test_a_file_in_the_way_is_an_error_with_73(tmp_path, place):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "file")
  with pytest.raises(errors.WorkdirError, match="a file is in its place") as e:
    with workdir.opened(tmp_path / place, main=True):
      pass
  assert e.value.exit_code == 73


def test_a_folder_that_cannot_be_written_is_an_error():
  # /proc refuses files even to root, for whom permission bits mean nothing.
  with pytest.raises(errors.WorkdirError, match=r"cannot be (written|made)"):
    with workdir.opened("/proc/self/run", main=True):
      pass


@pytest.mark.parametrize(
  ("path", "kind", "words"),
  [
    ("gs://b/run", errors.ConfigError, "no name of a bucket"),
    ("ftp://host/run", errors.ConfigError, "gs:// and s3://|local, gs://"),
    ("", errors.WorkdirError, "''"),
  ],
)
def test_a_path_that_is_no_folder_says_so(path, kind, words):
  with pytest.raises(kind, match=words):
    with workdir.opened(path, main=True):
      pass


@pytest.mark.parametrize("target", ["mine", "new", "folder"])
def test_the_lock_is_not_opened_through_a_link(target, tmp_path):
  outside = tmp_path / "outside"
  (outside / "folder").mkdir(parents=True)
  (outside / "mine").write_text("mine")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "lock").symlink_to(outside / target)
  with pytest.raises(errors.WorkdirError, match="lock' is a link"):
    with workdir.opened(tmp_path / "run", main=True):
      pass
  assert sorted(p.name for p in outside.iterdir()) == ["folder", "mine"]
  assert (outside / "mine").read_text() == "mine"


def test_a_workdir_that_is_a_link_is_the_user_s_choice(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "run")
  with workdir.opened(tmp_path / "link", main=True):
    assert (tmp_path / "run" / "lock").is_file()


def test_a_file_system_that_cannot_rename_folders_is_refused_at_the_start(tmp_path, monkeypatch):
  rename = os.rename

  def files_only(source, target, **kwargs):
    if os.path.isdir(source) and any(entry.is_dir() for entry in os.scandir(source)):
      raise OSError(errno.EMFILE, "Too many open files", str(source))
    rename(source, target, **kwargs)

  monkeypatch.setattr(os, "rename", files_only)
  told = "cannot rename folders .*mounted buckets"
  with pytest.raises(errors.WorkdirError, match=told), workdir.opened(tmp_path / "w", main=True):
    pass
  assert [p.name for p in (tmp_path / "w").iterdir()] == ["lock"]


def test_a_full_disk_is_refused_at_the_start_and_nothing_is_left(tmp_path):
  with small_disk.mounted(tmp_path / "disk", size="64k") as disk:
    small_disk.fill(disk)
    told = "cannot be written: No space left"
    with pytest.raises(errors.WorkdirError, match=told), workdir.opened(disk, main=True):
      pass
    assert [p.name for p in disk.iterdir()] == [small_disk.FILLER]


def test_s3_is_refused_at_once_with_the_reason():
  with pytest.raises(errors.WorkdirError, match=r"'s3://abc/run': orbax writes .* gs:// alone"):
    with workdir.opened("s3://abc/run", main=True):
      pass
