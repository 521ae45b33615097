"""Letters for choices, shuffled in training."""

import collections

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.data import order

ROW = {"choices": ["red", "green", "blue"], "answer": 1}


def test_the_given_order_is_kept():
  row = pp.LetterChoices("given")(ROW, None)
  assert row["indexed_choices"] == "(A) red, (B) green, (C) blue"
  assert row["indexed_answer"] == "B"


def test_a_shuffled_letter_names_the_right_choice_whatever_its_place():
  seen = collections.Counter()
  for epoch in range(300):
    row = pp.LetterChoices("shuffled")(ROW, order.row_rng(0, epoch, 5))
    assert f"({row['indexed_answer']}) green" in row["indexed_choices"]
    assert sorted(part[4:] for part in row["indexed_choices"].split(", ")) == [
      "blue",
      "green",
      "red",
    ]
    seen[row["indexed_choices"]] += 1
  assert len(seen) == 6
  # 50 expected of each order, sigma is 6.5: five sigmas.
  assert all(17 < count < 83 for count in seen.values())


def test_the_order_is_a_function_of_seed_epoch_and_row():
  say = lambda: pp.LetterChoices("shuffled")(ROW, order.row_rng(1, 2, 3))  # noqa: E731
  assert say() == say()


def test_an_unknown_answer_has_no_letter():
  assert pp.LetterChoices("given")({**ROW, "answer": -1}, None)["indexed_answer"] == ""


@pytest.mark.parametrize("answer", [3, -2, "1", 1.0, True, None])
def test_a_number_that_is_none_of_the_choices_rejects_the_row(answer):
  with pytest.raises(errors.DataError, match="answer"):
    pp.LetterChoices("given")({**ROW, "answer": answer}, np.random.default_rng(0))


def test_fields_are_checked():
  with pytest.raises(errors.ConfigError, match="Did you mean 'shuffled'"):
    pp.LetterChoices("shufled")
  with pytest.raises(errors.ConfigError, match=r"out must be a tuple, .* \('letter',\)"):
    pp.LetterChoices("given", out="letter")
  with pytest.raises(errors.ConfigError, match="two columns"):
    pp.LetterChoices("given", out=("letter",))
