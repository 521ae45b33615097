"""A download's videos become JPEGs in the rows; which frames is tested with `sources.video`."""

import io

import numpy as np
import PIL.Image
import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.miniatures import clips
from tests.miniatures import images
from tests.miniatures import msvd_qa
from tools.prepare import __main__ as prepare
from tools.prepare import build
from tools.prepare import raw as raw_lib
from tools.prepare import video

pytest.importorskip("av", reason="videos are made and read with PyAV")


def numbers(jpegs):
  """Which frame each JPEG is."""
  levels = [np.asarray(PIL.Image.open(io.BytesIO(j))).mean() for j in jpegs]
  return [round(level / 10) - 1 for level in levels]


def clip(folder, data, **options):
  images.write(folder / "videos/x.mp4", data)
  file = raw_lib.Raw(folder, "https://example.org").file("videos/x.mp4")
  return video.Clip(file, **options)


def test_a_clip_is_read_as_jpegs_of_its_frames(tmp_path):
  made = clip(tmp_path, clips.mp4(10), num=5, stride=4, start=0.2, end=0.9)
  assert numbers(made.read()) == [2, 6, 2, 6, 2]


def test_a_large_video_is_stored_smaller(tmp_path):
  (jpeg,) = clip(tmp_path, clips.mp4(1, size=(1280, 720)), num=1, stride=1).read()
  assert PIL.Image.open(io.BytesIO(jpeg)).size == (853, 480)


def test_what_is_no_video_is_named(tmp_path):
  with pytest.raises(errors.DataError, match=r"x\.mp4 is no video"):
    clip(tmp_path, b"no video at all", num=1, stride=1).read()


def test_missing_videos_are_left_out_and_told(tmp_path, capsys):
  images.write(tmp_path / "videos/a.mp4", b"")
  raw = raw_lib.Raw(tmp_path, "https://example.org")
  rows = [("a", {"i": 0}), ("b", {"i": 1}), ("a", {"i": 2})]
  found = list(video.with_video(raw, rows, what="x train", folders=("videos",)))
  assert [row["i"] for _, row in found] == [0, 2]
  assert "x train: 1 of 2 videos are not in" in capsys.readouterr().err


def test_no_video_at_all_is_an_error_that_names_one(tmp_path):
  raw = raw_lib.Raw(tmp_path, "https://example.org")
  with pytest.raises(errors.ConfigError, match=r"videos/b\.mp4.*https://example\.org"):
    list(video.with_video(raw, [("b", {})], what="x train", folders=("videos",)))


def test_a_row_holds_jpegs_which_the_ops_turn_into_frames(tmp_path):
  msvd_qa.make(tmp_path / "raw")
  (dataset,) = prepare.datasets_of("msvd_qa")
  build.write(dataset, tmp_path / "raw", tmp_path / "data")
  row = sources.Tfds("msvd_qa", data_dir=str(tmp_path / "data")).open()[0]
  assert numbers(row["frames"]) == [0] * 8  # Of six frames, the 26th is the first again.
  for op in (pp.Copy("frames", "image"), pp.Decode(), pp.Resize(28)):
    row = op(row, np.random.default_rng(0))
  assert row["image"].shape == (8, 28, 28, 3) and row["image"].dtype == np.uint8
