"""Boxes to loc tokens: the convention is always said, coordinates are checked."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.regions import loc

RNG = np.random.default_rng(0)


def test_shares_become_tokens_in_the_order_y_x():
  row = {"boxes": [(0.0, 0.25, 0.5, 1.0)], "labels": ["cat"]}
  assert pp.Boxes(bins=1024)(row, RNG)["suffix"] == "<loc0000><loc0256><loc0512><loc1023> cat"
  assert pp.Boxes(bins=1023)(row, RNG)["suffix"] == "<loc0000><loc0256><loc0512><loc1023> cat"
  row = {"boxes": [(0.0, 0.75, 0.9, 1.0)], "labels": ["cat"]}
  assert pp.Boxes(bins=1023)(row, RNG)["suffix"] == "<loc0000><loc0767><loc0921><loc1023> cat"
  assert pp.Boxes(bins=1024)(row, RNG)["suffix"] == "<loc0000><loc0768><loc0922><loc1023> cat"


@pytest.mark.parametrize(
  "order, box",
  [("yxyx", (20, 10, 80, 30)), ("xyxy", (10, 20, 30, 80)), ("xywh", (10, 20, 20, 60))],
)
def test_pixel_boxes_are_of_the_picture_as_decoded(order, box):
  row = {"image": np.zeros((100, 40, 3), np.uint8), "boxes": [box], "labels": ["cat"]}
  suffix = pp.Boxes(bins=1024, order=order, pixels=True)(row, RNG)["suffix"]
  (found,) = loc.parse_boxes(suffix, bins=1024).boxes
  np.testing.assert_allclose(found, (0.2, 0.25, 0.8, 0.75), rtol=0, atol=0.5 / 1024)


def test_one_label_serves_all_boxes_and_no_box_is_no_text():
  row = {"boxes": [(0, 0, 1, 1)] * 2, "labels": "dog"}
  assert pp.Boxes(bins=1024)(row, RNG)["suffix"].count(" dog") == 2
  assert pp.Boxes(bins=1024)({"boxes": [], "labels": []}, RNG)["suffix"] == ""


@pytest.mark.parametrize(
  "boxes",
  [[(0, 0, 2, 1)], [(0.5, 0, 0.1, 1)], [(0, 0, 1)], ["abcd"], "x", [(0, 0, 1, float("nan"))]],
)
def test_a_box_that_cannot_be_one_rejects_the_row(boxes):
  with pytest.raises(errors.DataError):
    pp.Boxes(bins=1024)({"boxes": boxes, "labels": ["a"] * len(boxes)}, RNG)


def test_the_convention_has_no_default():
  with pytest.raises(errors.ConfigError, match="bins"):
    pp.Boxes()
  with pytest.raises(errors.ConfigError, match="1000"):
    pp.Boxes(bins=1000)


@hypothesis.settings(deadline=None)
@hypothesis.given(
  boxes=st.lists(
    st.tuples(*[st.floats(0, 0.45), st.floats(0, 0.45), st.floats(0.5, 1), st.floats(0.5, 1)]),
    max_size=5,
  ),
  bins=st.sampled_from([1023, 1024]),
)
def test_what_is_written_is_read_back_within_half_a_bin(boxes, bins):
  row = {"boxes": boxes, "labels": "thing"}
  parsed = loc.parse_boxes(pp.Boxes(bins=bins)(row, RNG)["suffix"], bins=bins)
  assert parsed.num_invalid == 0
  assert parsed.labels == ("thing",) * len(boxes)
  # At 1024 the value 1.0 is token 1023, a whole bin below.
  np.testing.assert_allclose(
    np.array(parsed.boxes).reshape(-1, 4), np.array(boxes).reshape(-1, 4), rtol=0, atol=1 / 1023
  )


@hypothesis.settings(deadline=None)
@hypothesis.given(text=st.text(alphabet=st.sampled_from("<loc0123456789>; catseg\n")))
def test_reading_model_output_never_raises(text):
  for box in loc.parse_boxes(text, bins=1024).boxes:
    assert all(0 <= v <= 1 for v in box)


def test_shuffled_boxes_keep_their_labels_and_come_in_every_order():
  row = {"boxes": [(0, 0, 0.25, 0.25), (0.5, 0.5, 1, 1)], "labels": ["cat", "dog"]}
  plain = pp.Boxes(bins=1023)(row, RNG)["suffix"]
  op = pp.Boxes(bins=1023, shuffle=True)
  found = {op(row, np.random.default_rng(seed))["suffix"] for seed in range(12)}
  assert found == {plain, " ; ".join(reversed(plain.split(" ; ")))}


def _op(box, **fields):
  row = {"boxes": [box], "labels": ["cat"], "image": np.zeros((48, 64, 3), np.uint8)}
  return pp.Boxes(bins=1024, **{"pixels": True, "order": "xyxy", **fields})(row, None)


def test_a_box_that_sticks_out_by_a_pixel_is_cut_and_by_more_only_if_asked():
  inside = _op((44, 10, 64, 30))["suffix"]
  row = _op((44, 10, 65, 30))
  assert row["suffix"] == inside and "_notes" not in row
  for box in ((44, 10, 70, 30), (44, 10, 20, 20)):
    order = "xyxy" if box[2] > 64 else "xywh"
    if order == "xywh":
      box = (44, 10, 26, 20)
    with pytest.raises(errors.DataError, match=r"64 x 48 pixels.*exif.*outside='cut'"):
      _op(box, order=order)
    row = _op(box, order=order, outside="cut")
    assert (row["suffix"], row["_notes"]) == (inside, ("boxes_clipped",))
  for box in ((70, 10, 90, 30), (30, 30, 20, 20), (float("nan"), 1, 2, 3)):
    with pytest.raises(errors.DataError):
      _op(box, outside="cut")


def test_shares_may_be_rounded_and_not_more():
  near = _op((0.5, 0.5, 1.0005, 1), pixels=False)["suffix"]
  assert near == _op((0.5, 0.5, 1, 1), pixels=False)["suffix"]
  with pytest.raises(errors.DataError, match="from 0 to 1"):
    _op((0.5, 0.5, 1.1, 1), pixels=False)
  with pytest.raises(errors.DataError, match=r"like fractions .*pixels=False"):
    _op((0.1, 0.1, 0.5, 0.5))


def test_lists_that_are_written_as_texts_are_lists():
  row = {"boxes": "[[1, 2, 3, 4], [5, 6, 7, 8]]", "labels": '["cat", "dog"]'}
  row["image"] = np.zeros((48, 64, 3), np.uint8)
  op = pp.Boxes(bins=1024, pixels=True)
  lists = {**row, "boxes": [["1", "2", "3", "4"], "[5, 6, 7, 8]"], "labels": ["cat", "dog"]}
  assert op(row, None)["suffix"] == op(lists, None)["suffix"]
  assert op({**row, "labels": "[sic"}, None)["suffix"].endswith("[sic")
  with pytest.raises(errors.DataError, match="written as JSON"):
    op({**row, "boxes": "[1; 2]"}, None)
