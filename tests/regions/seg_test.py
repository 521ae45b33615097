"""Masks as text: what is written reads back, in both conventions; no text makes reading fail."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from paligemma_jax.core import errors
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg

_CODEC = mask_codec.open_codec()
_BINS = st.sampled_from([1023, 1024])
_CODES = st.lists(st.integers(0, 127), min_size=16, max_size=16)
_LABEL = st.text(st.characters(exclude_characters=";<", exclude_categories=["Cs"]), max_size=8)


def _ellipse(height, width, y, x, ry, rx):
  rows, columns = np.indices((height, width)) + 0.5
  return ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 <= 1


@st.composite
def _boxes(draw):
  """Boxes of at least two bins."""
  values = []
  for _ in range(2):
    low = draw(st.floats(0, 0.99))
    values.append((low, draw(st.floats(low + 2 / 1023, 1))))
  (y_min, y_max), (x_min, x_max) = values
  return (y_min, x_min, y_max, x_max)


@given(_boxes(), _CODES, _LABEL, _BINS)
def test_codes_label_and_box_read_back_the_box_within_half_a_bin(box, codes, label, bins):
  text = seg.format_segment(box, codes, label, bins=bins)
  read = seg.parse(text, codec=_CODEC, bins=bins)
  assert read.codes == tuple(codes) and read.label == label.strip()
  for value, found in zip(box, read.box, strict=True):
    # The last token of the 1024 convention stands for up to a whole bin.
    slack = 0.5 if bins == 1023 or value <= 1023 / 1024 else 1
    assert abs(value - found) <= slack / bins + 1e-9


def test_a_mask_is_written_as_its_box_in_the_order_y_x_and_its_codes():
  mask = np.zeros((100, 200), bool)
  mask[20:60, 50:150] = True
  text = seg.masks_to_text([mask], [None], ["cat"], codec=_CODEC, bins=1024)
  codes = _CODEC.encode(np.ones((1, 64, 64), bool))[0]
  expected = "<loc0205><loc0256><loc0614><loc0768>" + "".join(f"<seg{c:03d}>" for c in codes)
  assert text == expected + " cat"
  text = seg.masks_to_text([mask], [None], [""], codec=_CODEC, bins=1023)
  assert text.startswith("<loc0205><loc0256><loc0614><loc0767><seg")  # 0.75 * 1023 = 767.25


@pytest.mark.parametrize("bins", [1023, 1024])
def test_masks_survive_the_way_to_text_and_back(bins):
  ious = []
  for shape, centre, radii in [
    ((240, 320), (120, 160), (100, 60)),
    ((101, 77), (50, 30), (20, 29)),
    ((640, 480), (300, 240), (299, 239)),
  ]:
    mask = _ellipse(*shape, *centre, *radii)
    text = seg.masks_to_text([mask], [None], ["egg"], codec=_CODEC, bins=bins)
    found = seg.text_to_masks(text, *shape, codec=_CODEC, bins=bins)[0]
    assert found.label == "egg" and found.mask.shape == shape
    box = seg.least_box(mask)
    # Half a bin, to 1 / 2046 of the side (a bin at the far edge of the 1024 convention).
    assert max(abs(a - b) for a, b in zip(box, found.box, strict=True)) <= 1 / bins
    ious.append((mask & found.mask).sum() / (mask | found.mask).sum())
  assert min(ious) > 0.85


def test_what_is_written_and_painted_is_the_codec_between_two_resizes():
  mask = _ellipse(90, 120, 40, 60, 30, 50)
  text = seg.masks_to_text([mask], [(0.1, 0.05, 0.8, 0.95)], [""], codec=_CODEC, bins=1023)
  part = mask[9:72, 6:114]
  codes = _CODEC.encode(seg.to_square(part)[None])
  assert seg.parse(text, codec=_CODEC, bins=1023).codes == tuple(codes[0].tolist())
  found = seg.text_to_masks(text, 90, 120, codec=_CODEC, bins=1023)[0]
  y_min, x_min, y_max, x_max = seg.pixel_box(found.box, 90, 120)
  assert (y_min, x_min, y_max, x_max) == (8, 5, 71, 114)  # Truncated: 102 / 1023 * 90 = 8.97.
  painted = seg.from_square(_CODEC.decode(codes)[0], 63, 109)
  np.testing.assert_array_equal(found.mask[8:71, 5:114], painted)
  assert found.mask.sum() == painted.sum()


def test_several_objects_stand_in_one_text():
  masks = [_ellipse(64, 64, 20, 20, 15, 12), _ellipse(64, 64, 40, 44, 18, 14)]
  text = seg.masks_to_text(masks, [None, None], ["cat", "dog"], codec=_CODEC, bins=1024)
  found = seg.text_to_masks(text + " ; <loc0001>", 64, 64, codec=_CODEC, bins=1024)
  assert [f and f.label for f in found] == ["cat", "dog", None]
  alone = seg.text_to_masks(text.split(" ; ")[1], 64, 64, codec=_CODEC, bins=1024)[0]
  np.testing.assert_array_equal(found[1].mask, alone.mask)
  assert seg.masks_to_text([], [], [], codec=_CODEC, bins=1024) == ""


_GOOD = "<loc0100><loc0200><loc0300><loc0400>" + "<seg007>" * 16


@pytest.mark.parametrize(
  "text",
  [
    "",
    "cat",
    _GOOD[:-8],  # Fifteen codes.
    _GOOD.replace("<seg007>", "<seg128>", 1),
    _GOOD.replace("<loc0400>", "<loc1024>"),
    _GOOD.replace("<loc0300>", "<loc0100>"),  # No height.
    _GOOD.replace("<loc0400>", "<loc0199>"),  # Inside out.
    " " + _GOOD,  # The first token is a space: the reference's first twenty tokens are wrong.
    "cat " + _GOOD,
  ],
)
def test_an_invalid_text_is_none(text):
  assert seg.parse(_GOOD + " cat", codec=_CODEC, bins=1023) is not None
  assert seg.parse(text, codec=_CODEC, bins=1023) is None


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["<loc0001>", "<loc1023>", "<seg127>", "<seg1", ";", "é\n"])))
def test_no_text_makes_reading_fail(parts):
  for found in seg.text_to_masks("".join(parts), 3, 5, codec=_CODEC, bins=1024):
    assert found is None or found.mask.shape == (3, 5)


def test_a_box_without_a_pixel_is_none():
  text = "<loc0000><loc0000><loc0001><loc0001>" + "<seg007>" * 16
  assert seg.parse(text, codec=_CODEC, bins=1023) is not None
  assert seg.text_to_masks(text, 100, 100, codec=_CODEC, bins=1023)[0] is None


def test_masks_are_read_from_files_and_arrays():
  mask = _ellipse(9, 7, 4, 3, 4, 3)
  buffer = io.BytesIO()
  Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
  for value in (mask, mask.astype(np.uint8), mask[..., None].astype(np.float32), buffer.getvalue()):
    np.testing.assert_array_equal(seg.as_mask(value), mask)


@pytest.mark.parametrize(
  "value, hint",
  [
    (b"\x89PNG\r\n\x1a\n", "no intact PNG"),
    (b"GIF89a", "no intact PNG"),
    ("mask.png", "found str"),
    (np.zeros(4), r"float64\[4\]"),
    (np.zeros((0, 4), bool), "without pixels"),
    (np.array([["a"]]), "found <U1"),
  ],
)
def test_what_is_no_mask_is_named(value, hint):
  with pytest.raises(errors.DataError, match=hint):
    seg.as_mask(value)


@pytest.mark.parametrize(
  "masks, boxes, labels, hint",
  [
    ([np.zeros((4, 4), bool)], [None], [""], "no pixel"),
    ([np.ones((4, 4), bool)], [(0.5, 0.5, 0.5, 0.9)], [""], "thinner"),
    ([np.ones((4, 4), bool)], [(0.5, 0.9, 0.7, 0.5)], [""], "minima below maxima"),
    ([np.ones((4, 4), bool)], [None], ["a;b"], "without ';'"),
    ([np.ones((4, 4), bool)], [None, None], ["a"], "1 masks, 2 boxes"),
  ],
)
def test_what_cannot_be_written_is_an_error(masks, boxes, labels, hint):
  with pytest.raises(errors.DataError, match=hint):
    seg.masks_to_text(masks, boxes, labels, codec=_CODEC, bins=1023)


def test_boxes_and_masks_share_the_convention_of_tokens():
  with pytest.raises(errors.ConfigError, match="1023 and 1024"):
    seg.parse(_GOOD, codec=_CODEC, bins=1000)
  box = seg.parse(_GOOD, codec=_CODEC, bins=1023).box
  assert box == loc.parse_boxes("<loc0100><loc0200><loc0300><loc0400>", bins=1023).boxes[0]
