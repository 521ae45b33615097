"""POPE's figures against a confusion table computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors


def score(pairs, **options):
  predicted, rows = [predicted for predicted, _ in pairs], [{"answer": t} for _, t in pairs]
  return evals.score("pope", predicted, rows, **options)


def test_the_confusion_table_by_hand():
  pairs = (
    [("yes", "yes")] * 6
    + [("no", "yes")] * 2
    + [("yes", "no")] * 3
    + [("no", "no")] * 8
    + [("maybe", "no")]
  )
  assert score(pairs) == {
    "acc": 14 / 20,
    "precision": 6 / 9,
    "recall": 6 / 8,
    "f1": pytest.approx(2 * (6 / 9) * (6 / 8) / (6 / 9 + 6 / 8), rel=1e-15),
    "yes_share": 9 / 20,
    "valid_share": 19 / 20,
    "num": 20.0,
  }


def test_case_and_space_at_the_ends_do_not_count():
  assert score([(" Yes\n", "yes"), ("NO", "No")])["acc"] == 1.0
  assert score([("yes.", "yes")])["acc"] == 0.0


@pytest.mark.parametrize(
  ("predicted", "taken_for"),
  [
    ("yes", "yes"),
    ("no", "no"),
    ("No, there is none.", "no"),
    ("There is not.", "no"),
    ("Yes. There is no dog.", "yes"),
    ("NO", "yes"),
    ("no!", "yes"),
    ("none", "yes"),
    ("maybe", "yes"),
    ("", "yes"),
    ("I do,not see it", "yes"),
  ],
)
def test_sentences_are_read_as_by_the_authors_script(predicted, taken_for):
  # By hand, from the evaluate.py that comes with POPE's data: the text before the first full stop,
  # without commas, parted at blanks; 'No', 'no' or 'not' among its words is a no, all else a yes.
  assert score([(predicted, taken_for)], wording="sentence")["acc"] == 1.0
  assert score([("maybe", "yes")], wording="sentence")["valid_share"] == 0.0
  assert score([("maybe", "yes")])["acc"] == 0.0
  with pytest.raises(errors.ConfigError, match="Did you mean 'sentence'"):
    evals.Pope("x", None, wording="sentences")


@pytest.mark.parametrize("predicted", ["no", "maybe"])
def test_never_saying_yes_is_no_division_by_zero(predicted):
  result = score([(predicted, "yes"), (predicted, "no")])
  assert (result["precision"], result["recall"], result["f1"]) == (0.0, 0.0, 0.0)


@given(st.lists(st.tuples(st.sampled_from(("yes", "no", "x")), st.sampled_from(("yes", "no")))))
def test_f1_is_the_harmonic_mean_and_everything_lies_in_bounds(pairs):
  result = score(pairs)
  p, r = result["precision"], result["recall"]
  assert result["f1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0.0, abs=1e-12)
  assert all(0 <= v <= 1 for name, v in result.items() if name != "num")
  assert result == score(pairs[::-1])


@pytest.mark.parametrize("target", ["maybe", "", 1])
def test_a_truth_that_is_neither_is_named(target):
  with pytest.raises(errors.DataError, match=r"Row 0.*expected 'yes' or 'no'"):
    score([("yes", target)])


def test_the_evaluator_scores_as_the_metric_does():
  rows, outputs = [{"answer": "yes"}, {"answer": "no"}], [evals.Output(0, "yes"), evals.Output(1)]
  spec = evals.Pope("random/acc", None)
  assert spec.columns() == ("answer",)
  assert spec.score(rows, outputs) == score([("yes", "yes"), ("", "no")])
