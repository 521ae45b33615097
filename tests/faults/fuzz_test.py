"""Damaged files end in a value or in our own error, and a reader that does otherwise is found."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import pytest

from tests.faults import fuzz
from tests.faults import readers


@pytest.mark.slow  # About a minute: 16 processes, each with its own imports.
def test_300_damaged_inputs_of_all_readers():
  names = sorted(fuzz.READERS)
  if importlib.util.find_spec("av") is None:
    names.remove("video")  # Its valid input is made with PyAV, which is an extra.
  done = subprocess.run(
    [sys.executable, "-m", "tests.faults.fuzz", "--inputs", "300", "--seed", "2"]
    + ["--readers", *names],
    cwd=readers.ROOT,
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
  lines = [line for line in done.stdout.splitlines() if " violations" in line]
  assert len(lines) == len(names) + 1


def _socket(folder):
  import socket

  socket.socket(socket.AF_INET).close()


def _memory(folder):
  data = bytearray(700 << 20)
  data[::4096] = b"x" * len(data[::4096])


def _time(folder):
  end = time.process_time() + fuzz.SECS + 0.2
  while time.process_time() < end:
    pass


@pytest.mark.slow  # 10 s: one of them takes the time that no reader may take.
@pytest.mark.parametrize(
  "read, says",
  [
    (lambda folder: {}["a"], "KeyError"),
    (lambda folder: open("/etc/passwd").close(), "opened /etc/passwd"),
    (lambda folder: (folder.parents[1] / "new").touch(), "new for writing"),
    (lambda folder: open("/dev/zero").close(), "opened /dev/zero"),
    (lambda folder: os.system("true"), "os.system"),
    (lambda folder: __import__("sent"), "code of the input ran"),
    (lambda folder: (folder.parents[1] / "outside" / "mine").write_text("x"), "through a link"),
    (_socket, "a socket"),
    (_memory, "MB"),
    (_time, "it took"),
  ],
)
def test_a_reader_that_does_what_it_must_not_is_found_out(read, says, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  reader = readers.Reader(lambda f: (f / "a").write_text("abc"), lambda f, changed: read(f))
  place = fuzz._Place("toy", pathlib.Path(tmp_path), reader)
  result = fuzz._one(place, 0, 1)
  assert any(says in violation for violation in result["violations"]), result


def test_the_same_number_makes_the_same_input(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  seen = []

  def read(folder, changed):
    seen.append([(p.name, p.read_bytes()) for p in sorted(folder.iterdir()) if p.is_file()])

  place = fuzz._Place("jsonl", tmp_path, readers.Reader(readers.READERS["jsonl"].make, read))
  for seed, number in ((0, 5), (0, 6), (1, 5), (0, 5)):
    fuzz._one(place, seed, number)
  assert seen[0] == seen[3] and len({repr(s) for s in seen}) == 3
