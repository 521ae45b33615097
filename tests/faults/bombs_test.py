"""No single row takes more than 512 MB over the idle process, or 5 seconds of a core."""

import json
import pathlib
import pickle
import subprocess
import sys

import pytest

from tests.hostile import bombs
from tests.hostile import movies
from tests.hostile import tiffs

_ROOT = pathlib.Path(__file__).parents[2]
_MOST_MB, _MOST_SECS = 512, 5.0


def _measured(kind, folder):
  """{name: (decision, MB over idle, seconds, what was said)} of the files in the folder."""
  done = subprocess.run(
      [sys.executable, "-m", "tests.hostile.measure", kind, str(folder)],
      cwd=_ROOT, capture_output=True, text=True, timeout=900,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


def _check(table, found):
  """Every input was decided as the table says, and within the limits."""
  assert set(found) == set(table)
  wrong = []
  for name, (_, expected) in table.items():
    decision, mb, secs, logged = found[name]
    print(f"{name}: {decision}, {mb} MB, {secs} s, {logged[:120]}")
    decided = decision == expected if expected else decision in (bombs.ACCEPT, bombs.REJECT)
    if not decided or mb > _MOST_MB or secs > _MOST_SECS:
      wrong.append(f"{name}: {decision} ({expected}), {mb} MB, {secs} s, {logged}")
  assert not wrong, "\n".join(wrong)


@pytest.mark.slow  # 43 files of up to 49 million pixels, 30 s.
def test_images(tmp_path):
  table = {**bombs.IMAGES, **tiffs.IMAGES}
  assert len(table) >= 60
  for name, (make, _) in table.items():
    (tmp_path / name).write_bytes(make())
  _check(table, _measured("images", tmp_path))


@pytest.mark.long  # 38 files are encoded and read, 20 s.
def test_videos(tmp_path):
  pytest.importorskip("av", reason="videos are made and read with PyAV")
  assert len(movies.VIDEOS) >= 20
  for name, (make, _) in movies.VIDEOS.items():
    (tmp_path / name).write_bytes(make())
  _check(movies.VIDEOS, _measured("videos", tmp_path))


@pytest.mark.long  # 29 folders are written and read, 20 s.
def test_annotations(tmp_path):
  assert len(bombs.ANNOTATIONS) >= 25
  (tmp_path / "sources").mkdir()
  for i, (name, (make, _)) in enumerate(bombs.ANNOTATIONS.items()):
    source = make(tmp_path / str(i))
    (tmp_path / "sources" / name).write_bytes(pickle.dumps(source))
  _check(bombs.ANNOTATIONS, _measured("rows", tmp_path / "sources"))
