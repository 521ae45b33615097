"""Box matching by hand, and what must hold for any boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import localization
from paligemma_jax.regions import loc


def _text(*objects):
  return loc.format_boxes([b for b, _ in objects], [label for _, label in objects], bins=1024)


_LEFT, _RIGHT, _ALL = (0, 0, 1, 0.5), (0, 0.5, 1, 0.75), (0, 0, 1, 0.75)


def test_overlap_by_hand():
  a, b = loc.Box(0, 0, 0.5, 0.5), loc.Box(0.25, 0.25, 0.75, 0.75)
  assert localization.iou(a, b) == pytest.approx((1 / 16) / (7 / 16), rel=1e-12)
  assert localization.iou(a, loc.Box(0.5, 0, 1, 0.5)) == 0.0
  assert localization.iou(loc.Box(0, 0, 0, 1), loc.Box(0, 0, 0, 1)) == 1.0


@pytest.mark.parametrize(
  ("target", "prediction", "expected"),
  [
    # Found exactly.
    ([(_LEFT, "cat")], _text((_LEFT, "cat")), {"acc/0.75": 1, "miou": 1, "invalid": 0}),
    # The right box with the wrong name is not found, and is no unreadable text either.
    ([(_LEFT, "cat")], _text((_LEFT, "dog")), {"acc/0.5": 0, "miou": 0, "invalid": 0}),
    # Two cats, one prediction that overlaps both: the better pairing (2/3) counts, once.
    (
      [(_LEFT, "cat"), (_RIGHT, "cat")],
      _text((_ALL, "cat")),
      {"acc/0.5": 0.5, "acc/0.75": 0, "precision/0.5": 1, "num_boxes": 2},
    ),
    # Boxes strewn about: all are found, but precision tells.
    (
      [(_LEFT, "cat")],
      _text((_RIGHT, "cat"), (_LEFT, "cat"), (_ALL, "cat"), (_LEFT, "cat")),
      {"acc/0.5": 1, "miou": 1, "precision/0.5": 0.25, "num_predicted": 4},
    ),
    # One part unreadable: the readable one still counts.
    (
      [(_LEFT, "cat")],
      "<loc0001> cat ; " + _text((_LEFT, "cat")),
      {"acc/0.5": 1, "invalid": 1, "invalid_share": 1},
    ),
    # Nothing said where something was asked for.
    ([(_LEFT, "cat")], "", {"acc/0.5": 0, "invalid": 1}),
    # Nothing asked for and nothing said.
    ([], "", {"invalid": 0, "num": 1, "num_boxes": 0}),
  ],
)
def test_box_accuracy_by_hand(target, prediction, expected):
  result = evals.score("box_accuracy", [prediction], [{"suffix": _text(*target)}])
  assert {k: result[k] for k in expected} == expected


def test_the_convention_reaches_the_boxes():
  spec = evals.BoxAccuracy("val/box", None, target="t", bins=1023)
  text = "<loc0000><loc0000><loc1023><loc1023> cat"
  assert spec.columns() == ("t",)
  assert spec.score([{"t": text}], [evals.Output(0, text)])["acc/0.75"] == 1
  with pytest.raises(errors.ConfigError, match="bins"):
    evals.BoxAccuracy("val/box", None, bins=1000)


def test_truth_that_is_no_text_of_boxes_is_an_error_naming_the_row():
  with pytest.raises(errors.DataError, match="Row 1"):
    evals.score("box_accuracy", ["", ""], [{"suffix": ""}, {"suffix": "cat"}])


_CORNER = st.tuples(*[st.integers(0, 8)] * 4)
_OBJECTS = st.lists(
  st.tuples(
    _CORNER.map(
      lambda c: (min(c[0], c[2]) / 8, min(c[1], c[3]) / 8, max(c[0], c[2]) / 8, max(c[1], c[3]) / 8)
    ),
    st.sampled_from(["cat", "dog"]),
  ),
  max_size=5,
)


@given(_OBJECTS)
def test_the_truth_itself_scores_one(objects):
  text = _text(*objects)
  result = evals.score("box_accuracy", [text], [{"suffix": text}])
  assert result["num_boxes"] == len(objects)
  assert result["acc/0.75"] == result["miou"] == result["precision/0.5"] == float(bool(objects))


@given(_OBJECTS, _OBJECTS, st.randoms())
def test_the_order_of_predicted_boxes_does_not_matter_and_shares_are_shares(true, predicted, rng):
  shuffled = list(predicted)
  rng.shuffle(shuffled)
  rows = [{"suffix": _text(*true)}]
  result = evals.score("box_accuracy", [_text(*predicted)], rows)
  again = evals.score("box_accuracy", [_text(*shuffled)], rows)
  assert again["acc/0.5"] == pytest.approx(result["acc/0.5"]) or _has_ties(true, predicted)
  assert 0 <= result["acc/0.75"] <= result["acc/0.5"] <= 1
  assert 0 <= result["miou"] <= 1 and 0 <= result["precision/0.5"] <= 1


def _has_ties(true, predicted):
  overlaps = [localization.iou(loc.Box(*t), loc.Box(*s)) for t, _ in true for s, _ in predicted]
  return len(set(overlaps)) < len(overlaps)


def test_the_baseline_gives_the_mean_box_under_the_right_labels():
  low, high = (0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)
  rows = [{"suffix": _text((low, "cat"))}, {"suffix": _text((high, "dog"), (high, "cat"))}]
  result = evals.BoxAccuracy("val/box", None).baseline(rows)
  # The mean is 2/3 of the way to `high`: side 1/2, shifted by 1/3 from one and 1/6 from the other.
  near, far = (1 / 3) ** 2, (1 / 6) ** 2
  expected = (2 * near / (0.5 - near) + far / (0.5 - far)) / 3
  assert result["miou"] == pytest.approx(expected, abs=0.01)  # Boxes are rounded to 1/1024.
  assert result["num_predicted"] == 3
  assert evals.BoxAccuracy("val/box", None).baseline([{"suffix": ""}])["num_boxes"] == 0
