"""VQAv2 accuracy against tables computed by hand from the published rules."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import base
from paligemma_jax.evals import vqa

# Letters, digits, every mark and space, so that the rules meet often.
_TEXT = st.text(st.sampled_from("ab1 .,;/[]\"{}()=+\\_-><@`?!'"), max_size=12)


def row(answers, kind="other"):
  return {"answers": answers, "answer_type": kind}


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("Yes", "yes"),
    ("two dogs", "2 dogs"),
    ("None", "0"),
    ("ten", "10"),
    ("eleven", "eleven"),  # Number words end at ten.
    ("the man and a dog", "man and dog"),
    ("An Apple", "apple"),
    ("a", ""),
    ("t-shirt", "t shirt"),  # A mark between letters becomes a space,
    ("t- shirt", "t shirt"),  # one beside a space goes.
    ("t -shirt", "t shirt"),
    ("a-b -c", "ab c"),  # Beside a space once, and all of that mark go.
    ("red/white", "red white"),
    ("what?", "what"),
    ("1,000", "1000"),
    ("1,000-2,000", "10002000"),  # A comma between digits makes every mark go, the dash too:
    ("1,2 red-white", "12 redwhite"),  # a quirk of the official code.
    ("1, 2", "1 2"),
    ("2.5", "2.5"),
    ("2.", "2"),
    ("st. john", "st john"),
    ("a.m.", "am"),
    (".5", ".5"),
    ("5.o", "5o"),
    ("." * 40, "." * 8),  # The official code hands a flag, 32, where the count belongs.
    ("dont", "don't"),
    ("couldnt've", "couldn't've"),
    ("couldn'tve", "couldn't've"),
    ("yalld've", "yalld've"),  # Two apostrophes short: not in the list.
    ("y'alld've", "y'all'd've"),
    ("somebody'd", "somebodyd"),  # The wrong way round in the official list.
    ("shes", "shes"),
    ("Im", "im"),
    ("Ive", "ive"),  # In the list with a capital, which is gone by then.
    ("oclock", "o'clock"),
    ("ow'sat", "ow'sat"),
    ("'ow'sat", "'ow's'at"),
    ("it's  a   cat", "it's cat"),
    ("$5 & 10%", "$5 & 10%"),  # No marks of the list.
    ("", ""),
  ],
)
def test_the_normalisation_by_hand(text, expected):
  assert vqa.normalized(text) == expected


def transcribed(text):
  """The published rules, one mark and one word at a time."""
  out = text
  for mark in ';/[]"{}()=+\\_-><@`,?!':
    beside_a_space = mark + " " in text or " " + mark in text
    digits = re.search(r"(\d)(\,)(\d)", text)
    out = out.replace(mark, "" if beside_a_space or digits else " ")
  chars = [c for i, c in enumerate(out) if c != "." or out[i + 1 : i + 2].isdigit()]
  words = "".join(chars).lower().split()
  return " ".join(vqa._WORDS.get(w, w) for w in words if w not in ("a", "an", "the"))


@given(_TEXT)
def test_the_normalisation_is_the_published_rules_one_by_one(text):
  assert vqa.normalized(text) == transcribed(text)


@pytest.mark.parametrize(
  ("num_matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_the_accuracy_of_ten_answers_by_hand(num_matches, expected):
  answers = ["cat"] * num_matches + ["dog"] * (10 - num_matches)
  result = evals.score("vqav2", ["cat"], [row(answers)])
  assert result["acc"] == pytest.approx(expected, rel=1e-15)


@given(st.lists(st.sampled_from("xy"), min_size=2, max_size=12))
def test_the_accuracy_is_the_mean_over_leaving_each_answer_out(answers):
  left_out = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
  expected = sum(min(1, rest.count("x") / 3) for rest in left_out) / len(answers)
  found = vqa.accuracy_of(answers.count("x"), len(answers))
  assert found == pytest.approx(expected, abs=1e-12)


def test_nothing_but_space_is_normalised_where_all_agree():
  same = row(["The  Cat."] * 10)
  assert evals.score("vqav2", ["the  cat."], [same])["acc"] == 0.0
  assert evals.score("vqav2", ["The \tCat.\n"], [same])["acc"] == 1.0
  different = row(["The  Cat."] * 9 + ["dog"])
  assert evals.score("vqav2", ["cat"], [different])["acc"] == 1.0
  # Ten answers that differ by white space at the ends are the same answer.
  assert evals.score("vqav2", ["Cat"], [row(["Cat", " Cat\n"] * 5)])["acc"] == 1.0
  assert evals.score("vqav2", ["cat"], [row(["Cat", " Cat\n"] * 5)])["acc"] == 0.0


def test_the_types_of_answers_have_their_own_means():
  rows = [
    row(["yes"] * 10, "yes/no"),
    row(["no"] * 10, "yes/no"),
    row(["2"] * 10, "number"),
    row([], ""),  # Of a test split.
  ]
  assert evals.score("vqav2", ["yes"] * 4, rows) == {
    "acc": pytest.approx(1 / 3, rel=1e-15),
    "acc/yesno": 0.5,
    "num/yesno": 2.0,
    "acc/number": 0.0,
    "num/number": 1.0,
    "num_truth": 3.0,
    "num": 4.0,
  }


def test_without_types_all_are_other():
  result = evals.score("vqav2", ["a"], [{"answers": ["a"] * 10}], answer_type="")
  assert (result["acc"], result["acc/other"], result["num/other"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
  ("value", "words"),
  [
    (row(["a"] * 10, "yesno"), "'yesno'.*'yes/no', 'number', 'other'"),
    (row("a"), "several people.*exact_match"),
    ({"answers": ["a"] * 10}, "no column 'answer_type'"),
    ({"answer_type": "other"}, "no column 'answers'"),
  ],
)
def test_a_row_that_does_not_fit_is_named(value, words):
  with pytest.raises(errors.DataError, match=f"(?s)Row 0.*{words}"):
    evals.score("vqav2", ["a"], [value])


def test_the_evaluator_scores_as_the_metric_does_row_by_row():
  rows = [row(["a"] * 4 + ["b"] * 6), row(["b"] * 10)]
  outputs = [evals.Output(0, "b"), evals.Output(1, "a")]
  spec = evals.VqaV2Accuracy("minival/acc", None)
  assert spec.columns() == ("answers", "answer_type")
  assert evals.VqaV2Accuracy("x", None, answer_type="").columns() == ("answers",)
  assert spec.score(rows, outputs) == evals.score("vqav2", ["b", "a"], rows)
  assert spec.table(rows, outputs)["acc"].tolist() == [1.0, 0.0]
  twice = base.take(spec.table(rows, outputs), [0, 0, 1])
  assert spec.summary(twice)["acc"] == pytest.approx(2 / 3, rel=1e-15)


def test_a_hundred_thousand_answers_would_take_less_than_ten_seconds():
  # A fifth of them, at the worst: no text comes twice. Seconds of one core, whatever else runs.
  rows = [row([f"the {i}, red-{k}." for k in range(10)]) for i in range(20_000)]
  predictions = [f"{i} red {i % 10}" for i in range(20_000)]
  start = time.thread_time()  # not the seconds of threads that earlier tests left
  result = evals.score("vqav2", predictions, rows)
  assert time.thread_time() - start < 2
  assert result["acc"] == pytest.approx(0.3, rel=1e-12)
