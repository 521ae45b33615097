"""Pairs of MMVP computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors


def rows_of(*pairs):
  return [{"answer": answer, "pair": pair} for answer, pair in pairs]


def test_a_pair_counts_when_both_are_right():
  rows = rows_of(("left", 1), ("right", 1), ("open", 2), ("closed", 2), ("Yes", 3), ("No", 3))
  predicted = ["left", "right", "open", "open", "yes", "no"]
  assert evals.score("mmvp", predicted, rows) == {
    "acc": pytest.approx(2 / 3, rel=1e-15),
    "acc_single": pytest.approx(5 / 6, rel=1e-15),
    "num_pairs": 3.0,
    "num": 6.0,
  }


def test_the_rows_of_a_pair_need_not_be_neighbours():
  rows = rows_of(("a", 1), ("b", 2), ("c", 2), ("d", 1))
  assert evals.score("mmvp", ["a", "b", "x", "d"], rows)["acc"] == 0.5


def test_half_a_pair_is_no_pair():
  result = evals.score("mmvp", ["a", "b", "c"], rows_of(("a", 1), ("b", 1), ("c", 2)))
  assert (result["acc"], result["acc_single"], result["num_pairs"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
  ("predicted", "target", "right"),
  [
    ("in the puddle", "In the puddle", 1),
    ("2", "Two", 1),
    ("(a)", ["Yes", "(a)"], 1),
    ("a", ["Yes", "(a)"], 0),
    ("", "(a)", 0),
    ("left side", "left", 0),
  ],
)
def test_answers_are_compared_as_vqav2_does(predicted, target, right):
  result = evals.score("mmvp", [predicted, predicted], rows_of((target, 1), (target, 1)))
  assert result["acc_single"] == result["acc"] == right


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_the_paired_accuracy_is_never_above_the_single_one(pairs):
  rows = [r for k in range(len(pairs)) for r in rows_of(("x", k), ("x", k))]
  predicted = ["x" if right else "y" for pair in pairs for right in pair]
  result = evals.score("mmvp", predicted, rows)
  assert result["acc"] <= result["acc_single"]
  assert result["acc"] == pytest.approx(sum(map(all, pairs)) / len(pairs), rel=1e-12)


def test_a_pair_without_a_name_is_an_error():
  with pytest.raises(errors.DataError, match="'pair' holds None"):
    evals.score("mmvp", ["a"], rows_of(("a", None)))


def test_the_evaluator_scores_as_the_metric_does():
  rows, outputs = rows_of(("the b", 1), ("c", 1)), [evals.Output(0, "b"), evals.Output(1, "b")]
  spec = evals.Mmvp("test/acc", None)
  assert spec.columns() == ("answer", "pair")
  assert spec.score(rows, outputs)["acc_single"] == 0.5
