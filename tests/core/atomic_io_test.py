"""Files are whole or not there, links are never written through, only regular files are opened."""

import os
import socket

import pytest

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors

MINE = "a file of the user\n"


@pytest.fixture
def outside(tmp_path):
  """A file and a folder that no link may reach."""
  folder = tmp_path / "outside"
  folder.mkdir()
  (folder / "mine").write_text(MINE)
  (folder / "mine").chmod(0o640)
  before = _seen(folder)
  yield folder
  assert _seen(folder) == before


def _seen(folder):
  return [(p.name, p.stat().st_mode, p.read_text()) for p in sorted(folder.iterdir())]


@pytest.mark.parametrize("at", [".x.json.partial", "x.json"])
@pytest.mark.parametrize("target", ["mine", "new", "."])
def test_an_atomic_write_replaces_links(at, target, outside, tmp_path):
  (tmp_path / at).symlink_to(outside / target)
  atomic_io.write_atomically(tmp_path / "x.json", "new")
  assert (tmp_path / "x.json").read_text() == "new" and not (tmp_path / "x.json").is_symlink()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "x.json"]


def test_what_killed_processes_left_does_not_pile_up(tmp_path):
  (tmp_path / ".x.json.partial").write_text("half")
  atomic_io.write_atomically(tmp_path / "x.json", "whole")
  (tmp_path / ".x.json.partial").mkdir()
  (tmp_path / ".x.json.partial" / "deep").write_text("half")
  atomic_io.write_atomically(tmp_path / "x.json", b"whole")
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("target", ["mine", "new", "."])
def test_a_file_of_ours_is_not_opened_through_a_link(target, outside, tmp_path):
  (tmp_path / "lock").symlink_to(outside / target)
  with pytest.raises(errors.WorkdirError, match="lock' is a link; it is never written to"):
    atomic_io.open_own(tmp_path / "lock", os.O_RDWR | os.O_CREAT | os.O_TRUNC)


def test_a_hard_link_is_a_file_elsewhere_too(outside, tmp_path):
  os.link(outside / "mine", tmp_path / "lock")
  with pytest.raises(errors.WorkdirError, match="a hard link"):
    atomic_io.open_own(tmp_path / "lock", os.O_RDWR)


@pytest.mark.parametrize("below", ["a", "a/b"])
def test_folders_are_made_but_not_through_links(below, outside, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (tmp_path / "link").symlink_to(run)
  atomic_io.make_folder(tmp_path / "link" / below, below=tmp_path / "link")  # The user's own link.
  assert (run / below).is_dir()
  atomic_io.remove(run / "a")
  (run / "a").symlink_to(outside)
  with pytest.raises(errors.WorkdirError, match="a' is a link"):
    atomic_io.make_folder(run / below, below=run)


def test_removing_takes_links_not_what_they_lead_to(outside, tmp_path):
  folder = tmp_path / "folder"
  folder.mkdir()
  (folder / "to_folder").symlink_to(outside)
  (folder / "to_file").symlink_to(outside / "mine")
  atomic_io.remove(folder)
  folder.symlink_to(outside)
  atomic_io.remove(folder)
  atomic_io.remove(folder)
  assert not os.path.lexists(folder)


def _traps(folder):
  os.mkfifo(folder / "fifo")
  (folder / "to_fifo").symlink_to("fifo")
  (folder / "to_zero").symlink_to("/dev/zero")
  with socket.socket(socket.AF_UNIX) as s:
    s.bind(str(folder / "socket"))
  (folder / "folder").mkdir()
  return ("fifo", "to_fifo", "to_zero", "socket", "folder", "gone")


def test_only_regular_files_are_read(tmp_path):
  for name in _traps(tmp_path):
    with pytest.raises(OSError) as e:
      atomic_io.read(tmp_path / name, max_bytes=10)
    assert e.value.strerror, name
    if name not in ("gone", "folder"):
      with pytest.raises(errors.WorkdirError):
        atomic_io.open_own(tmp_path / name, os.O_WRONLY)
  (tmp_path / "file").write_bytes(b"0123456789")
  (tmp_path / "to_file").symlink_to("file")
  assert atomic_io.read(tmp_path / "to_file", max_bytes=10) == b"0123456789"
  with pytest.raises(OSError, match="It has 10 bytes, the limit is 9"):
    atomic_io.read(tmp_path / "file", max_bytes=9)


def test_names_of_files_that_are_no_utf_8_can_be_written(tmp_path):
  atomic_io.write_atomically(tmp_path / "a", os.fsdecode(b"caf\xe9.jpg, Zo\xc3\xab.jpg, \xff"))
  assert (tmp_path / "a").read_bytes() == b"caf%E9.jpg, Zo\xc3\xab.jpg, %FF"
  assert atomic_io.to_bytes("\ud800 ü") == "\ufffd ü".encode()
