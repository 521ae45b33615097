"""AI2D's letters, Widget Captioning's boxes, and zip files at any depth."""

import io
import shutil

import numpy as np
import PIL.Image
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.miniatures import ai2d
from tests.miniatures import images
from tests.miniatures import widgetcap
from tools.prepare import __main__ as prepare
from tools.prepare import ai2d as ai2d_builder
from tools.prepare import build
from tools.prepare import raw as raw_lib


def raw(folder):
  return raw_lib.Raw(folder, "https://example.org")


def pixels(data):
  return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_question_about_letters_has_them_in_place_of_the_labels(tmp_path):
  ai2d.make(tmp_path)
  records = ai2d_builder.splits(raw(tmp_path))["test"]
  plain, lettered = (pixels(record["image"].read()) for record in records[:2])
  changed = (plain != lettered).any(axis=-1)
  outside = np.ones_like(changed)
  for left, top, right, bottom in ((10, 10, 50, 40), (70, 50, 110, 80)):
    box = lettered[top : bottom + 1, left : right + 1]
    white, black = (box == 255).all(axis=-1).mean(), (box == 0).all(axis=-1).mean()
    assert white > 0.5 and black > 0.03
    outside[top : bottom + 1, left : right + 1] = False
  assert not changed[outside].any()


@pytest.mark.parametrize("box", [(0, 0, 3, 3), (5, 5, 5, 5), (100, 80, 300, 200)])
def test_a_label_of_any_size_can_be_painted(box, tmp_path):
  images.write(tmp_path / "a.png", images.png(0, (120, 90)))
  painted = ai2d_builder.Lettered(raw(tmp_path).file("a.png"), ((box, "W"),))
  assert pixels(painted.read()).shape == (90, 120, 3)


def test_a_diagram_that_is_no_picture_is_named(tmp_path):
  images.write(tmp_path / "a.png", b"no image")
  with pytest.raises(errors.DataError, match=r"Cannot paint letters on .*a\.png"):
    ai2d_builder.Lettered(raw(tmp_path).file("a.png"), ()).read()


def test_a_download_can_stay_in_its_zip_file(tmp_path):
  ai2d.make(tmp_path / "raw")
  whole = ai2d_builder.splits(raw(tmp_path / "raw"))
  shutil.make_archive(tmp_path / "raw/ai2d-all", "zip", tmp_path / "raw", "ai2d")
  shutil.rmtree(tmp_path / "raw/ai2d")
  zipped = ai2d_builder.splits(raw(tmp_path / "raw"))
  for split, records in whole.items():
    assert [r["question_id"] for r in zipped[split]] == [r["question_id"] for r in records]
    assert all(r["image"].read() for r in zipped[split])


def test_a_node_that_is_not_there_is_named(tmp_path):
  widgetcap.make(tmp_path / "raw")
  path = tmp_path / "raw/widget_captions.csv"
  path.write_text(path.read_text().replace("6,0.1.0", "6,0.1.9"))
  (dataset,) = prepare.datasets_of("widgetcap")
  with pytest.raises(errors.DataError, match=r"6\.json: no bounds of node '0\.1\.9'"):
    build.write(dataset, tmp_path / "raw", tmp_path / "data")


def test_a_box_is_an_array_which_the_source_hands_on(tmp_path):
  widgetcap.make(tmp_path / "raw")
  (dataset,) = prepare.datasets_of("widgetcap")
  build.write(dataset, tmp_path / "raw", tmp_path / "data")
  row = sources.Tfds("widgetcap", data_dir=str(tmp_path / "data")).open()[0]
  assert row["bbox"].shape == (4,)
