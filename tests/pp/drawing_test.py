"""The red box of Widget Captioning."""

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax.core import errors


def drawn(box, shape=(5, 7), **options):
  image = np.full((*shape, 3), 9, np.uint8)
  row = pp.DrawBox(**options)({"image": image, "bbox": box}, None)
  assert (image == 9).all()  # The row's own image is left alone.
  return row["image"]


def outline(box, shape=(5, 7)):
  """'#' where the box is."""
  red = (drawn(box, shape) == (255, 0, 0)).all(axis=-1)
  return ["".join(".#"[int(v)] for v in line) for line in red]


def test_the_corners_are_scaled_by_the_last_pixel_and_truncated():
  assert outline((0.3, 0.2, 0.99, 0.6)) == [
    ".......",
    ".###...",
    ".#.#...",
    ".###...",
    ".......",
  ]
  assert outline((0, 0, 1, 1)) == ["#######", "#.....#", "#.....#", "#.....#", "#######"]


def test_edges_outside_are_left_away_and_the_others_cut():
  assert outline((-0.5, 0.4, 0.5, 1.5)) == ["..#....", "..#....", "..#####", ".......", "......."]


# By TensorFlow's kernel: corners are truncated towards 0, so that -0.2 of the 4 steps between 5
# rows is row 0; a box of which no row or no column is in the image is not drawn at all.
@pytest.mark.parametrize(
  ("box", "lines"),
  [
    ((1.5, 1.5, 2, 2), []),
    ((-2, -2, -1.5, -1.5), []),
    ((-3, 0, -1, 1), []),
    ((0, -3, 1, -1), []),
    ((0.2, -2, 0.8, -0.5), []),
    ((-2, 0.2, -0.5, 0.8), []),
    ((1.3, 0, 2, 1), []),
    ((0, 1.2, 1, 2), []),
    ((-2, -2, 2, 2), []),  # All four edges are outside.
    ((-0.2, -0.1, 0.5, 0.5), ["####...", "#..#...", "####..."]),
    ((-2, 0, 0.5, 0.5), ["#..#...", "#..#...", "####..."]),
    ((-2, 0.5, -0.2, 2), ["...####"]),
  ],
)
def test_boxes_outside_are_drawn_as_by_tensorflow(box, lines):
  assert outline(box) == lines + ["......."] * (5 - len(lines))


@pytest.mark.parametrize("box", [(-3, 0, -1, 1), (0, -3, 1, -1), (1.5, 0, 2, 1), (0, 1.5, 1, 2)])
def test_a_box_that_is_outside_as_a_whole_is_noted(box):
  image = np.full((5, 7, 3), 9, np.uint8)
  row = pp.DrawBox()({"image": image, "bbox": box}, None)
  assert (row["image"] == 9).all() and row["_notes"] == ("box_outside",)


def test_a_box_without_area_is_a_line_or_a_point():
  assert outline((0.5, 0, 0.5, 1))[2] == "#######"
  assert sum(line.count("#") for line in outline((0.5, 0.5, 0.5, 0.5))) == 1


@pytest.mark.parametrize("box", [(0.5, 0, 0.1, 1), (0, 1, 1, 0)])
def test_of_a_box_that_ends_before_it_begins_nothing_is_drawn_and_that_is_noted(box):
  image = np.full((5, 7, 3), 9, np.uint8)
  row = pp.DrawBox()({"image": image, "bbox": box}, None)
  assert (row["image"] == 9).all() and row["_notes"] == ("box_inverted",)


def test_all_frames_get_the_box_in_the_color_asked_for():
  image = np.zeros((2, 4, 4, 3), np.uint8)
  out = pp.DrawBox(color=(1, 2, 3))({"image": image, "bbox": np.array([0, 0, 1, 1.0])}, None)
  assert (out["image"][:, 0] == (1, 2, 3)).all() and (out["image"][:, 1, 1] == 0).all()


@pytest.mark.parametrize(
  "box", [(0, 0, 1), "abcd", (0, 0, float("nan"), 1), (0, 0, float("inf"), 1), None, 3]
)
def test_what_is_no_box_rejects_the_row(box):
  with pytest.raises(errors.DataError, match="bbox"):
    drawn(box)


def test_an_impossible_color_is_refused():
  with pytest.raises(errors.ConfigError, match="color is"):
    pp.DrawBox(color=(256, 0, 0))
