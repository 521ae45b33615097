"""Box text: what is written reads back, and no text makes reading fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.core import errors
from paligemma_jax.regions import loc

_SHARE = st.floats(0, 1)
_BINS = st.sampled_from([1023, 1024])
_LABEL = st.text(st.characters(exclude_characters=";<", exclude_categories=["Cs"]), max_size=8)


@st.composite
def _boxes(draw):
  y, x = sorted((draw(_SHARE), draw(_SHARE))), sorted((draw(_SHARE), draw(_SHARE)))
  return (y[0], x[0], y[1], x[1])


@pytest.mark.parametrize(
  ("bins", "tokens"),
  [
    (1023, "<loc0000><loc0102><loc0512><loc1023>"),  # 0.1 * 1023 = 102.3, 511.5 -> even 512
    (1024, "<loc0000><loc0102><loc0512><loc1023>"),
  ],
)
def test_a_box_is_written_in_the_order_y_x_y_x(bins, tokens):
  text = loc.format_boxes([(0, 0.1, 0.5, 1)], ["cat"], bins=bins)
  assert text == tokens + " cat"


def test_the_two_conventions_differ_where_they_should():
  assert loc.to_token(0.999, bins=1023) == 1022
  assert loc.to_token(0.999, bins=1024) == 1023
  assert loc.from_token(1023, bins=1023) == 1.0
  assert loc.from_token(1023, bins=1024) == 1023 / 1024


@given(st.lists(st.tuples(_boxes(), _LABEL), max_size=4), _BINS)
def test_what_is_written_reads_back_within_one_bin(objects, bins):
  boxes, labels = [b for b, _ in objects], [label for _, label in objects]
  text = loc.format_boxes(boxes, labels, bins=bins)
  parsed = loc.parse_boxes(text, bins=bins)
  assert parsed.num_invalid == 0
  assert list(parsed.labels) == [label.strip() for label in labels]
  for box, read in zip(boxes, parsed.boxes, strict=True):
    # Half a bin by rounding; the last token of the 1024 convention stands for up to a whole one.
    assert all(
      abs(a - b) <= (0.5 if bins == 1023 else 1) / bins + 1e-9
      for a, b in zip(box, read, strict=True)
    )
  assert loc.format_boxes(parsed.boxes, parsed.labels, bins=bins) == text


@given(
  st.lists(
    st.one_of(
      st.sampled_from(["<loc0000>", "<loc1023>", "<loc1024>", "<loc12>", ";", " cat"]),
      st.text(max_size=3),
    ),
    max_size=14,
  ).map("".join),
  _BINS,
)
def test_no_text_makes_reading_fail_and_boxes_stay_inside(text, bins):
  parsed = loc.parse_boxes(text, bins=bins)
  assert len(parsed.boxes) == len(parsed.labels)
  for box in parsed.boxes:
    assert 0 <= box.y_min <= box.y_max <= 1 and 0 <= box.x_min <= box.x_max <= 1


@pytest.mark.parametrize(
  ("text", "num_boxes", "num_invalid"),
  [
    ("", 0, 0),
    ("   ", 0, 0),
    ("cat", 0, 1),
    ("<loc0000><loc0000><loc0001><loc0001> cat ; ", 1, 1),
    ("<loc0000><loc0000><loc0001><loc0001> cat ; <loc0000><loc0000> dog", 1, 1),
    ("<loc0002><loc0000><loc0001><loc0001> cat", 0, 1),
    ("<loc0000><loc0000><loc1024><loc0001> cat", 0, 1),
    ("<loc0000><loc0000><loc0001><loc0001><loc0001> cat", 0, 1),
    ("<loc٠٠٠٠><loc0000><loc0001><loc0001> cat", 0, 1),
  ],
)
def test_unreadable_parts_are_counted(text, num_boxes, num_invalid):
  parsed = loc.parse_boxes(text, bins=1024)
  assert (len(parsed.boxes), parsed.num_invalid) == (num_boxes, num_invalid)


@pytest.mark.parametrize(
  ("box", "label"),
  [
    ((0, 0, 2, 1), "cat"),
    ((0.5, 0, 0.4, 1), "cat"),
    ((0, 0, float("nan"), 1), "cat"),
    ((0, 0, 1), "cat"),
    ("abcd", "cat"),
    ((0, 0, 1, 1), "cat ; dog"),
    ((0, 0, 1, 1), "<loc0000>"),
  ],
)
def test_a_box_that_could_not_be_read_back_is_refused(box, label):
  with pytest.raises(errors.DataError):
    loc.format_boxes([box], [label], bins=1024)


def test_the_convention_must_be_one_of_the_two():
  with pytest.raises(errors.ConfigError, match="1023 and 1024"):
    loc.parse_boxes("", bins=1000)
