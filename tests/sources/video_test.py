"""Videos: which frames are taken, of files and of folders, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.sources import files
from paligemma_jax.sources import video
from tests.miniatures import clips
from tests.miniatures import images


def write(folder, rows):
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def number(pixels):
  """Which frame it is: frame i is grey of level 10 (i + 1)."""
  return round(np.asarray(pixels).mean() / 10) - 1


@pytest.mark.parametrize(
  ("total", "num", "stride", "expected"),
  [
    (10, 4, 1, [0, 1, 2, 3]),
    (10, 3, 4, [0, 4, 8]),
    (10, 4, 4, [0, 4, 8, 0]),  # Too short: it begins anew.
    (1, 3, 9, [0, 0, 0]),
    (300, 16, 9, list(range(0, 144, 9))),  # MSR-VTT's recipe.
    (10, 5, 0, [1, 3, 5, 7, 9]),
    (10, 1, 0, [5]),
    (3, 6, 0, [0, 0, 1, 1, 2, 2]),
  ],
)
def test_positions_follow_the_rule(total, num, stride, expected):
  assert video.positions(total, num, stride) == expected


@pytest.fixture(scope="module")
def ten_frames():
  """One second at 10 frames per second."""
  pytest.importorskip("av", reason="videos are made and read with PyAV")
  return clips.mp4(10)


@pytest.mark.parametrize(
  ("num", "stride", "start", "end", "expected"),
  [
    (4, 1, 0, 0, [0, 1, 2, 3]),
    (4, 4, 0, 0, [0, 4, 8, 0]),
    (5, 9, 0, 0, [0, 9, 0, 9, 0]),
    (2, 2, 0.5, 0, [5, 7]),
    (3, 1, 0.2, 0.4, [2, 3, 2]),  # The end itself is not in it.
    (2, 1, 0.31, 0.39, [3, 3]),  # No frame begins in there: the one that is shown.
    (2, 1, 7.0, 9.0, [9, 9]),
    (5, 0, 0, 0, [1, 3, 5, 7, 9]),
    (2, 0, 0.2, 0.6, [3, 5]),
    (2, 0, 7.0, 9.0, [9, 9]),
  ],
)
def test_a_video_file_gives_the_frames_of_the_part(ten_frames, num, stride, start, end, expected):
  got = video.decode(ten_frames, "x", num=num, stride=stride, start=start, end=end)
  assert [number(pixels) for pixels in got] == expected
  assert all(p.shape == (48, 64, 3) and p.dtype == np.uint8 for p in got)


def test_a_cut_file_gives_what_is_there_or_an_error(ten_frames):
  for cut in (0, 20, len(ten_frames) // 2):
    with pytest.raises(errors.DataError, match="x is no video that can be decoded"):
      video.decode(ten_frames[:cut], "x", num=2, stride=1)


def test_rows_name_videos_and_parts_of_them(ten_frames, tmp_path):
  images.write(tmp_path / "clips/a.mp4", ten_frames)
  rows = [
    {"video": "a.mp4", "suffix": "all of it"},
    {"video": "a.mp4", "suffix": "a part", "start": 0.3, "end": 0.8},
  ]
  source = sources.Video(
    write(tmp_path, rows), num=2, stride=2, videos=str(tmp_path / "clips"), columns=("suffix",)
  )
  assert set(source.makes()) == {"frames", "video", "suffix"}
  opened = pickle.loads(pickle.dumps(source.open()))
  assert [[number(p) for p in opened[i]["frames"]] for i in (0, 1)] == [[0, 2], [3, 5]]
  row = opened[1]
  for op in (pp.Copy("frames", "image"), pp.Decode(), pp.Resize(28)):
    row = op(row, np.random.default_rng(0))
  assert row["image"].shape == (2, 28, 28, 3) and row["suffix"] == "a part"
  assert opened.fingerprint() != source.replace(stride=3).open().fingerprint()


def test_a_folder_of_frames_needs_no_library(tmp_path):
  for i in range(12):
    images.write(tmp_path / f"frames/f{i}.png", images.png(i))
  for name in ("notes.txt", "._f0.png", "more/f0.png"):
    images.write(tmp_path / "frames" / name, b"no frame")
  rows = sources.Video(write(tmp_path, [{"video": "frames"}]), num=4, stride=3).open()
  assert rows[0]["frames"] == [images.png(i) for i in (0, 3, 6, 9)]  # f9 is not after f11.


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"video": "gone.mp4"}, r"rows\.jsonl:1: column 'video': file 'gone\.mp4' is not in"),
    ({"video": "../a.mp4"}, r"without '\.\.'"),
    ({"video": "/etc/passwd"}, "must be relative"),
    ({"video": "empty"}, "folder 'empty' has no images"),
    ({"video": "frames", "start": 1}, "has no seconds to cut it by"),
    ({"video": "frames", "start": "1"}, "'start' is '1': expected seconds"),
    ({"video": "frames", "end": -1}, "expected seconds, 0 or more"),
    ({"video": "frames", "start": 2, "end": 1}, "from 2.0 s to 1.0 s is empty"),
    ({"clip": "frames"}, "'video' is missing"),
  ],
)
def test_a_bad_row_is_named_with_its_reason(row, message, tmp_path):
  images.write(tmp_path / "frames/f.png", images.png(0))
  (tmp_path / "empty").mkdir()
  rows = sources.Video(write(tmp_path, [row]), num=1, stride=1).open()
  with pytest.raises(errors.DataError, match=message):
    rows[0]


def test_a_folder_outside_is_not_listed(tmp_path):
  images.write(tmp_path / "outside/f.png", images.png(0))
  (tmp_path / "root").mkdir()
  (tmp_path / "root/link").symlink_to(tmp_path / "outside")
  with pytest.raises(errors.DataError, match="leads out of"):
    files.paths_under(str(tmp_path / "root"), "link")


def test_without_the_library_the_error_names_it(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "av", None)
  images.write(tmp_path / "a.mp4", b"\0" * 10)
  rows = sources.Video(write(tmp_path, [{"video": "a.mp4"}]), num=1, stride=1).open()
  with pytest.raises(errors.ConfigError, match="pip install av"):
    rows[0]


@pytest.mark.parametrize("fields", [{"num": 0, "stride": 1}, {"num": 1, "stride": -1}])
def test_impossible_numbers_are_refused(fields):
  with pytest.raises(errors.ConfigError, match="of Video is"):
    sources.Video("rows.jsonl", **fields)
