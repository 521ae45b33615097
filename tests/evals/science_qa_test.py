"""ScienceQA's letters against a table computed by hand."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors


@pytest.mark.parametrize(
  ("prediction", "acc", "parsefail"),
  [
    ("The answer is B.", 1, 0),
    ("the answer is b.", 1, 0),
    ("The answer is A.", 0, 0),
    ("The answer is B. BECAUSE: it is so.", 1, 0),
    ("The answer is B", 0, 1),  # The full stop belongs to it.
    ("Well, the answer is B.", 0, 1),  # So does the beginning.
    ("The answer is BB.", 0, 1),
    ("The answer is (B).", 0, 1),
    ("B", 0, 1),
    ("", 0, 1),
  ],
)
def test_letters_by_hand(prediction, acc, parsefail):
  for target in ("b", "B", "The answer is B."):
    result = evals.score("science_qa", [prediction], [{"answer": target}])
    assert result == {"acc": acc, "parsefail": parsefail, "num": 1.0}


@given(st.lists(st.tuples(*[st.sampled_from(string.ascii_uppercase[:5])] * 2), min_size=1))
def test_the_accuracy_is_the_share_of_equal_letters(pairs):
  predicted = [f"The answer is {a}." for a, _ in pairs]
  result = evals.score("science_qa", predicted, [{"answer": b} for _, b in pairs])
  assert result["acc"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs), rel=1e-15)
  assert result["parsefail"] == 0.0


@pytest.mark.parametrize("target", ["", "AB", "answer is A.", 1, None])
def test_a_truth_that_is_no_letter_is_named(target):
  with pytest.raises(errors.DataError, match=r"Row 0.*'answer' holds"):
    evals.score("science_qa", ["The answer is A."], [{"answer": target}])


def test_the_evaluator_scores_as_the_metric_does():
  rows = [{"letter": "a"}, {"letter": "c"}]
  outputs = [evals.Output(0, "The answer is A."), evals.Output(1, "x")]
  spec = evals.ScienceQa("test/acc", None, target="letter")
  assert spec.columns() == ("letter",)
  assert spec.score(rows, outputs) == {"acc": 0.5, "parsefail": 0.5, "num": 2.0}
