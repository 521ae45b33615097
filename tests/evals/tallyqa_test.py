"""Counts against tables computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import benchmarks


@pytest.mark.parametrize(
  ("prediction", "target", "acc"),
  [
    ("2", 2, 1),
    ("two", 2, 1),
    ("Two", "2", 1),
    ("2", "two", 1),
    ("none", 0, 1),
    ("zero", 0, 1),
    ("twenty", 20, 1),
    ("twenty one", 21, 0),
    ("21", 21, 1),
    ("2.0", 2, 0),
    ("2 dogs", 2, 0),
    (" 2\n", 2, 1),
    ("", 0, 0),
    ("many", "many", 1),
  ],
)
def test_counts_by_hand(prediction, target, acc):
  result = evals.score("tallyqa", [prediction], [{"answer": target, "issimple": -1}])
  assert (result["acc"], result["num"]) == (acc, 1.0)


def test_simple_complex_and_each_count_have_their_own_means():
  rows = [
    {"answer": 1, "issimple": 1},
    {"answer": 1, "issimple": 0},
    {"answer": 15, "issimple": 0},
    {"answer": 3, "issimple": -1},
  ]
  assert evals.score("tallyqa", ["1", "one", "14", "3"], rows) == {
      "acc": 0.75,
      "acc/simple": 1.0, "num/simple": 1.0,
      "acc/complex": 0.5, "num/complex": 2.0,
      "acc/count_1": 1.0, "num/count_1": 2.0,
      "acc/count_3": 1.0, "num/count_3": 1.0,
      "acc/count_15": 0.0, "num/count_15": 1.0,
      "num": 4.0,
  }  # fmt: skip


def test_counts_above_fifteen_are_one_group():
  result = evals.score("tallyqa", ["16", "99"], [{"answer": 16}, {"answer": 100}], simple="")
  assert (result["acc/count_over_15"], result["num/count_over_15"]) == (0.5, 2.0)


def test_the_kind_of_question_may_come_as_a_truth_value():
  rows = [{"answer": 1, "issimple": True}, {"answer": 1, "issimple": False}]
  result = evals.score("tallyqa", ["1", "2"], rows)
  assert (result["acc/simple"], result["acc/complex"]) == (1.0, 0.0)


@given(st.integers(0, 20))
def test_every_number_word_is_its_number(number):
  assert benchmarks.in_digits(benchmarks._WORDS[number]) == str(number)
  assert benchmarks.in_digits(str(number)) == str(number)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 1)), min_size=1))
def test_the_groups_of_counts_hold_every_row_once(pairs):
  rows = [{"answer": n, "issimple": kind} for n, kind in pairs]
  result = evals.score("tallyqa", ["7"] * len(rows), rows)
  counts = {name: v for name, v in result.items() if name.startswith("num/count_")}
  assert sum(counts.values()) == result["num"] == len(rows)
  right = sum(result[f"acc/{n.removeprefix('num/')}"] * v for n, v in counts.items())
  assert right == pytest.approx(result["acc"] * len(rows), abs=1e-9)


@pytest.mark.parametrize(
  ("row", "words"),
  [
    ({"answer": 1.5, "issimple": 1}, "holds 1.5"),
    ({"answer": True, "issimple": 1}, "holds True"),
    ({"answer": 1, "issimple": 2}, "holds 2.*simple=''"),
    ({"answer": 1, "issimple": "yes"}, "holds 'yes'"),
    ({"answer": 1}, "no column 'issimple'"),
  ],
)
def test_a_row_that_does_not_fit_is_named(row, words):
  with pytest.raises(errors.DataError, match=words):
    evals.score("tallyqa", ["1"], [row])


def test_the_evaluator_scores_as_the_metric_does():
  rows, outputs = [{"number": 5}], [evals.Output(0, "five")]
  spec = evals.TallyQa("count/acc", None, target="number", simple="")
  assert spec.columns() == ("number",)
  assert evals.TallyQa("x", None).columns() == ("answer", "issimple")
  assert spec.score(rows, outputs)["acc"] == 1.0
