"""RSVQA's averages computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors


def rows_of(*pairs):
  return [{"answers": [answer], "question_type": kind} for answer, kind in pairs]


def test_the_averages_by_hand():
  rows = rows_of(
    ("yes", "presence"),
    ("no", "presence"),
    ("yes", "presence"),
    ("no", "presence"),
    ("yes", "comp"),
    ("rural", "rural_urban"),
    ("0", "count"),
    ("1", "count"),
  )
  predicted = ["yes", "no", "yes", "yes", "yes", "urban", "0", "2"]
  result = evals.score("rsvqa", predicted, rows)
  assert result == {
      "acc": pytest.approx(5 / 8 / 3, rel=1e-15),  # One answer of three that would be needed.
      "acc_any": 5 / 8,
      "acc/presence": 0.75, "num/presence": 4.0,
      "acc/comp": 1.0, "num/comp": 1.0,
      "acc/rural_urban": 0.0, "num/rural_urban": 1.0,
      "acc/count": 0.5, "num/count": 2.0,
      "acc_avg": pytest.approx((0.75 + 1.0 + 0.0 + 0.5) / 4, rel=1e-15),
      "acc_avg_nonum": pytest.approx((0.75 + 1.0 + 0.0) / 3, rel=1e-15),
      "num": 8.0,
  }  # fmt: skip


def test_high_resolution_has_areas_which_are_numbers_too():
  rows = rows_of(("0 m2", "area"), ("yes", "comp"))
  result = evals.score("rsvqa", ["0 m2", "no"], rows)
  assert (result["acc_avg"], result["acc_avg_nonum"]) == (0.5, 0.0)


def test_case_and_a_single_text_as_truth():
  rows = [{"answers": "Yes", "question_type": "comp"}]
  assert evals.score("rsvqa", ["yes"], rows)["acc_any"] == 0.0
  result = evals.score("rsvqa", ["yes"], rows, lower=True)
  assert (result["acc"], result["acc_any"], result["acc_avg"]) == (1.0, 1.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(("comp", "area")))))
def test_the_averages_of_equally_many_of_each_type_are_the_overall_accuracy(pairs):
  rows = [r for answer, kind in pairs for r in rows_of((answer, kind), ("a", kind))]
  result = evals.score("rsvqa", ["a"] * len(rows), rows)
  assert 0 <= result["acc_avg"] <= 1
  if len({sum(kind == k for _, kind in pairs) for k in ("comp", "area")}) == 1:
    assert result["acc_avg"] == pytest.approx(result["acc_any"], abs=1e-12)


def test_a_row_without_a_type_is_named():
  with pytest.raises(errors.DataError, match=r"Row 1.*'question_type' holds ''"):
    evals.score("rsvqa", ["a", "b"], rows_of(("a", "comp"), ("b", "")))


def test_the_evaluator_scores_as_the_metric_does():
  rows = rows_of(("a", "comp"), ("b", "presence"))
  outputs = [evals.Output(0, "A"), evals.Output(1, "a")]
  spec = evals.Rsvqa("val/acc", None, lower=True)
  assert spec.columns() == ("answers", "question_type")
  assert spec.score(rows, outputs) == evals.score("rsvqa", ["A", "a"], rows, lower=True)
