"""Relaxed accuracy against a table computed by hand from arXiv:2203.10244, section 5.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import benchmarks


@pytest.mark.parametrize(
  ("prediction", "target", "acc", "relaxed"),
  [
    ("100", "100", 1, 1),
    ("105", "100", 0, 1),
    ("95", "100", 0, 1),
    ("105.1", "100", 0, 0),
    ("94.9", "100", 0, 0),
    ("-95", "-100", 0, 1),
    ("95", "-100", 0, 0),
    ("100.0", "100", 0, 1),
    ("0.12", "12%", 0, 1),  # A percentage is a number.
    ("12", "12%", 0, 0),
    ("12.5%", "12%", 0, 1),
    ("0", "0", 1, 1),
    ("0.0", "0", 0, 0),  # There is no share of nothing: as it is written.
    ("0.001", "0", 0, 0),
    ("1e2", "100", 0, 1),
    ("1,000", "1000", 0, 0),  # Not read as a number.
    ("Spain", "Spain", 1, 1),
    ("spain", "Spain", 0, 0),
    ("Spain", "100", 0, 0),
    ("nan", "nan", 1, 1),  # Words, not numbers.
    ("inf", "100", 0, 0),
    ("%", "%", 1, 1),
    ("", "5", 0, 0),
    (" 100\n", "100", 1, 1),
    ("b", ["a", "b"], 1, 1),
  ],
)
def test_relaxed_accuracy_by_hand(prediction, target, acc, relaxed):
  result = evals.score("chartqa", [prediction], [{"answer": target}])
  assert result == {"acc": acc, "relaxed_acc": relaxed, "num": 1.0}


def test_case_is_ignored_where_asked_for():
  assert evals.score("chartqa", ["spain"], [{"answer": "Spain"}], lower=True)["relaxed_acc"] == 1


@given(st.integers(1, 10**6), st.integers(-300, 300))
def test_within_a_twentieth_and_no_further(target, thousandths):
  predicted = target * (1000 + thousandths) / 1000
  if abs(thousandths) != 50:  # There, rounding decides.
    assert benchmarks.relaxed_match(repr(predicted), str(target)) == (abs(thousandths) < 50)


@given(*[st.text(st.sampled_from("0159.%-+e naif"), max_size=5)] * 2)
def test_equal_texts_match_and_nothing_raises(a, b):
  assert benchmarks.relaxed_match(a, a)
  if benchmarks._number(a) is None or benchmarks._number(b) is None:
    assert benchmarks.relaxed_match(a, b) == (a == b)


def test_the_mean_of_parts_weighs_them_alike():
  # Three rows of people, one right (1/3); one of a model, right within a twentieth: (1/3 + 1) / 2,
  # where all rows alike have 2/4.
  pairs = [
      ("1", "1", "human"), ("2", "1", "human"), ("x", "y", "human"), ("103", "100", "augmented")
  ]  # fmt: skip
  rows = [{"answer": target, "part": part} for _, target, part in pairs]
  found = evals.score("chartqa", [predicted for predicted, _, _ in pairs], rows, part="part")
  assert found == {
      "acc": 0.25, "relaxed_acc": 0.5, "acc/human": pytest.approx(1 / 3), "acc/augmented": 0.0,
      "relaxed_acc/human": pytest.approx(1 / 3), "relaxed_acc/augmented": 1.0,
      "acc_avg": pytest.approx(1 / 6), "relaxed_acc_avg": pytest.approx(2 / 3),
      "num/human": 3.0, "num/augmented": 1.0, "num": 4.0,
  }  # fmt: skip
  assert evals.ChartQa("x", None, part="part").columns() == ("answer", "part")
  with pytest.raises(errors.DataError, match="'part' holds 3"):
    evals.score("chartqa", ["a"], [{"answer": "a", "part": 3}], part="part")


def test_the_evaluator_scores_as_the_metric_does():
  rows, outputs = [{"y": "10"}, {"y": "A"}], [evals.Output(0, "10.4"), evals.Output(1, "a")]
  spec = evals.ChartQa("test/acc", None, target="y", lower=True)
  assert spec.columns() == ("y",)
  assert spec.score(rows, outputs) == {"acc": 0.5, "relaxed_acc": 1.0, "num": 2.0}
  assert spec.table(rows, outputs)["acc"].tolist() == [0.0, 1.0]
