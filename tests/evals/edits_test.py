"""Edit distance, error rates and ANLS, against tables computed by hand and a plain definition."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import vqa

_TEXT = st.text("abc ", max_size=12)


def plain_distance(a, b):
  """The definition: one row of the classical table after the other."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    above, row = row, [i]
    for j, y in enumerate(b, 1):
      row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
  return row[-1]


@given(_TEXT, _TEXT)
def test_the_distance_is_the_one_of_the_classical_table(a, b):
  assert vqa.levenshtein(a, b) == plain_distance(a, b)
  assert vqa.levenshtein(a.split(), b.split()) == plain_distance(a.split(), b.split())


def test_the_distance_of_texts_longer_than_a_machine_word():
  a, b = "kitten" * 40, "sitting" * 40
  assert vqa.levenshtein(a, b) == plain_distance(a, b)


@given(_TEXT, _TEXT, _TEXT)
def test_the_distance_is_a_metric(a, b, c):
  assert vqa.levenshtein(a, b) == vqa.levenshtein(b, a)
  assert (vqa.levenshtein(a, b) == 0) == (a == b)
  assert vqa.levenshtein(a, c) <= vqa.levenshtein(a, b) + vqa.levenshtein(b, c)


@pytest.mark.parametrize(
  ("prediction", "target", "expected"),
  [
    ("", "", 1.0),
    ("x", "", 0.0),
    ("", "x", 0.0),
    ("ab", "ac", 0.0),  # A distance of exactly one half is already too far.
    ("abcd", "abxx", 0.0),
    ("abcde", "abcxx", 0.6),
    ("kitten", "sitting", 1 - 3 / 7),
    ("abc", "abc", 1.0),
    ("Abc", "abc", 1 - 1 / 3),  # Case counts here; the evaluator lowers it where asked to.
  ],
)
def test_anls_by_hand(prediction, target, expected):
  assert vqa.anls(prediction, target) == pytest.approx(expected, rel=1e-15)


@given(st.text(string.ascii_lowercase[:3], max_size=7), st.text("abc", max_size=7))
def test_anls_is_symmetric_but_for_the_empty_truth_and_one_only_when_equal(a, b):
  assert (vqa.anls(a, b) == 1.0) == (a == b)
  assert 0.0 <= vqa.anls(a, b) <= 1.0
  if a and b:
    assert vqa.anls(a, b) == vqa.anls(b, a)


@pytest.mark.parametrize(
  ("predictions", "targets", "cer", "wer"),
  [
    (["the cat"], ["the cat"], 0.0, 0.0),
    (["the bat"], ["the cat"], 1 / 7, 1 / 2),
    (["cat"], ["the cat"], 4 / 7, 1 / 2),
    (["a b c d"], ["a"], 6.0, 3.0),  # Too much was said: above 1.
    (["", "xy"], ["abcd", "xy"], 4 / 6, 1 / 2),  # By all characters, not a mean of rates.
    ([" the cat\n"], ["the cat"], 0.0, 0.0),
    (["x"], [""], 1.0, 1.0),
    ([""], [""], 0.0, 0.0),
    (["hat"], [["cats", "hats"]], 1 / 4, 1.0),  # The nearest of several.
    (["über"], ["uber"], 1 / 4, 1.0),
  ],
)
def test_error_rates_by_hand(predictions, targets, cer, wer):
  rows = [{"suffix": target} for target in targets]
  result = evals.score("error_rate", predictions, rows)
  assert result["cer"] == pytest.approx(cer, rel=1e-15)
  assert result["wer"] == pytest.approx(wer, rel=1e-15)
  assert result["num"] == len(rows)


def test_error_rates_without_case_and_with_the_space_at_the_ends():
  rows = [{"t": "The Cat "}]
  assert evals.score("error_rate", ["the cat"], rows, target="t", lower=True)["cer"] == 0.0
  assert evals.score("error_rate", ["The Cat"], rows, target="t", strip=False)["cer"] == 1 / 8


def test_a_row_without_truth_counts_nowhere():
  rows = [{"suffix": []}, {"suffix": "ab"}]
  assert evals.score("error_rate", ["x", "ax"], rows) == {"cer": 0.5, "wer": 1.0, "num": 1.0}


def test_the_evaluator_scores_as_the_metric_does():
  spec = evals.ErrorRate("val/ocr", None, target="text", lower=True)
  rows, outputs = [{"text": "AB"}], [evals.Output(0, "abc")]
  assert spec.columns() == ("text",)
  assert spec.score(rows, outputs) == evals.score(
    "error_rate", ["abc"], rows, target="text", lower=True
  )
  with pytest.raises(errors.DataError, match="Row 0"):
    spec.score([{"text": 3}], outputs)
