"""Polygons and run lengths make the masks that pycocotools makes; nothing else is let in."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.core import errors
from paligemma_jax.regions import rle

_GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden" / "coco_masks.json").read_text("utf-8")
)["cases"]


def test_polygons_and_both_kinds_of_run_lengths_are_those_of_pycocotools():
  assert len(_GOLDEN) == 24
  for case in _GOLDEN:
    size = case["height"], case["width"]
    drawn = rle.decode(case["polygons"], *size)
    packed = rle.decode({"size": list(size), "counts": case["counts"]}, *size)
    np.testing.assert_array_equal(drawn, packed)
    if case["runs"]:
      runs = rle.decode({"size": list(size), "counts": case["runs"]}, *size)
      np.testing.assert_array_equal(drawn, runs)
  assert sum(rle.decode(c["polygons"], c["height"], c["width"]).any() for c in _GOLDEN) > 20


def test_runs_go_down_the_columns_and_begin_outside():
  found = rle.decode({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
  np.testing.assert_array_equal(found, [[False, True, False], [True, False, False]])


def test_a_box_as_a_polygon_is_its_pixels():
  found = rle.decode([[1, 2, 4, 2, 4, 5, 1, 5]], 8, 8)
  expected = np.zeros((8, 8), bool)
  expected[2:5, 1:4] = True
  np.testing.assert_array_equal(found, expected)


@given(
  st.lists(st.floats(-20, 40), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0),
  st.integers(1, 20),
  st.integers(1, 20),
)
def test_any_polygon_stays_in_the_picture(points, height, width):
  mask = rle.decode([points], height, width)
  assert mask.shape == (height, width) and mask.dtype == bool


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [["a"] * 6], [[1, 2, 3, 4, 5, float("nan")]],
        [[0, 0, 1e9, 0, 0, 1e9]], {"counts": [12]}, {"size": [3, 4], "counts": [11]},
        {"size": [4, 3], "counts": [12]}, {"size": [3, 4], "counts": [-1, 13]},
        {"size": [3, 4], "counts": [6.0, 6.0]}, {"size": [3, 4], "counts": "\x00"},
        {"size": [3, 4], "counts": "oooooooooooooooooo"}, {"size": [3, 4], "counts": "o"},
        {"size": [3, 4], "counts": None}, "x", {"size": [3, 4], "counts": "é"},
    ],
)  # fmt: skip
def test_what_is_no_mask_is_an_error(segmentation):
  with pytest.raises(errors.DataError):
    rle.decode(segmentation, 3, 4)


def test_a_mask_of_billions_of_pixels_is_refused_before_it_is_made():
  with pytest.raises(errors.DataError, match="more than"):
    rle.decode({"size": [100_000, 100_000], "counts": [10**10]}, 100_000, 100_000)
