"""Exact match and soft accuracy against tables computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors


@pytest.mark.parametrize(
  ("prediction", "target", "options", "acc"),
  [
    ("cat", "cat", {}, 1.0),
    (" cat\n", "cat", {}, 1.0),
    (" cat", "cat", {"strip": False}, 0.0),
    ("Cat", "cat", {}, 0.0),
    ("Cat", "cAT", {"lower": True}, 1.0),
    ("b", ["a", "b"], {}, 1.0),
    ("c", ["a", "b"], {}, 0.0),
    ("", "", {}, 1.0),
  ],
)
def test_exact_match_by_hand(prediction, target, options, acc):
  result = evals.score("exact_match", [prediction], [{"suffix": target}], **options)
  assert result == {"acc": acc, "num": 1.0}


@pytest.mark.parametrize(
  ("target", "acc", "acc_any", "anls"),
  [
    ("red", 1.0, 1.0, 1.0),
    ("rod", 0.0, 0.0, 2 / 3),  # One of three letters differs.
    ("blue", 0.0, 0.0, 0.0),
    (["red"], 1 / 3, 1.0, 1.0),
    (["red"] * 2 + ["blue"], 2 / 3, 1.0, 1.0),
    (["red"] * 3 + ["blue"], 1.0, 1.0, 1.0),
    (["red"] * 9, 1.0, 1.0, 1.0),
    (["rod", "blue"], 0.0, 0.0, 2 / 3),
  ],
)
def test_vqa_accuracy_by_hand(target, acc, acc_any, anls):
  result = evals.score("vqa_accuracy", ["red"], [{"suffix": target}])
  assert result["acc"] == pytest.approx(acc, rel=1e-15)
  assert result["acc_any"] == acc_any
  assert result["anls"] == pytest.approx(anls, rel=1e-15)


def test_rows_without_truth_are_counted_and_scored_nowhere():
  rows = [{"a": ["x"] * 3}, {"a": []}]
  result = evals.score("vqa_accuracy", ["x", "x"], rows, target="a")
  assert (result["acc"], result["num_truth"], result["num"]) == (1.0, 1.0, 2.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("abc"))), max_size=9))
def test_scores_lie_in_bounds_and_ignore_the_order_of_rows(pairs):
  predictions = [p for p, _ in pairs]
  rows = [{"suffix": target} for _, target in pairs]
  result = evals.score("vqa_accuracy", predictions, rows)
  assert result == evals.score("vqa_accuracy", predictions[::-1], rows[::-1])
  assert 0 <= result["acc"] <= result["acc_any"] <= result["anls"] <= 1


def test_the_evaluators_score_as_the_metrics_do():
  rows = [{"answers": ["a", "b", "b"]}, {"answers": ["c"]}]
  outputs = [evals.Output(0, "B"), evals.Output(1, "x")]
  soft = evals.VqaAccuracy("val/acc", None, target="answers", lower=True)
  exact = evals.ExactMatch("val/em", None, target="answers", lower=True)
  assert soft.columns() == exact.columns() == ("answers",)
  assert soft.score(rows, outputs)["acc"] == pytest.approx(1 / 3, rel=1e-15)
  assert exact.score(rows, outputs) == {"acc": 0.5, "num": 2.0}


@pytest.mark.parametrize(
  ("metric", "rows", "options", "error", "words"),
  [
    ("exact_mach", [{"suffix": "a"}], {}, errors.ConfigError, "exact_match"),
    ("exact_match", [{"suffix": "a"}], {"lowr": True}, errors.ConfigError, "lower"),
    ("exact_match", [{"sufix": "a"}], {}, errors.DataError, "sufix"),
    ("exact_match", [{"suffix": 3}], {}, errors.DataError, "Row 0"),
    ("exact_match", [], {}, errors.DataError, "1 predictions but 0 rows"),
  ],
)
def test_a_wrong_call_is_one_clear_sentence(metric, rows, options, error, words):
  with pytest.raises(error, match=words):
    evals.score(metric, ["a"], rows, **options)


def test_a_missing_prediction_is_named():
  with pytest.raises(errors.DataError, match="Prediction 1 is None"):
    evals.score("exact_match", ["a", None], [{"suffix": "a"}] * 2)


def test_perplexity_by_hand():
  outputs = [
    evals.Output(0, loss_sum=2.0, num_tokens=4, num_correct=3),
    evals.Output(1, loss_sum=3.0, num_tokens=1, num_correct=0),
    evals.Output(2),  # Nothing was supervised: counts nowhere.
  ]
  result = evals.Perplexity("val/loss", None).score([{}] * 3, outputs)
  assert result == {
    "loss": 1.75,
    "nll_per_token": 1.0,
    "perplexity": math.e,
    "token_accuracy": 0.6,
    "num": 2.0,
    "num_tokens": 5.0,
  }


def test_perplexity_of_a_broken_model_is_infinite_and_no_error():
  outputs = [evals.Output(0, loss_sum=1e9, num_tokens=1)]
  assert evals.Perplexity("val/loss", None).score([{}], outputs)["perplexity"] == math.inf


def test_the_baseline_gives_the_commonest_answer():
  rows = [{"suffix": answer} for answer in ("two", "one", "one", "three")]
  spec = evals.ExactMatch("val/count", None)
  assert spec.baseline(rows) == {"acc": 0.5, "num": 4.0}
  assert spec.baseline([])["acc"] == 0.0
