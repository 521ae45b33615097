"""Durations: what is one, and how many steps it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.config import schema
from paligemma_jax.core import errors


@pytest.mark.parametrize(
  "text, expected",
  [
    ("200 steps", (200, "steps")),
    ("1 step", (1, "steps")),
    ("1.5 epochs", (1.5, "epochs")),
    ("5e3 examples", (5000, "examples")),
    ("10%", (10, "%")),
    (" 10 % ", (10, "%")),
    ("end", (100, "%")),
    ("", (0, "steps")),
    (7, (7, "steps")),
    ("0 epochs", (0, "epochs")),
  ],
)
def test_durations_people_write(text, expected):
  assert schema.parse_duration(text, "log.every") == expected


@pytest.mark.parametrize(
  "text",
  [
    "200",
    "-1 steps",
    "ten steps",
    "10 percent",
    "nan steps",
    "inf epochs",
    "1e5",
    "5 stepsx",
    "1 2 steps",
    "%",
    True,
    1.5,
    -3,
    "9e999 steps",
    ["1 step"],
  ],
)
def test_what_is_no_duration_is_refused_with_the_key_and_the_forms(text):
  with pytest.raises(errors.ConfigError, match=r"log\.every.*write '200 steps'"):
    schema.parse_duration(text, "log.every")


@given(st.text(alphabet="0123456789.eE %-+stepochxaml\n", max_size=14))
def test_any_text_is_a_duration_or_a_config_error_that_names_the_key(text):
  try:
    number, unit = schema.parse_duration(text, "train.total")
  except errors.ConfigError as e:
    assert "train.total" in str(e)
    assert repr(text) in str(e)
  else:
    assert 0 <= number < float("inf")
    assert unit in ("steps", "epochs", "examples", "%")


@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 10**6))
def test_epochs_and_examples_are_at_most_half_a_step_off_but_never_none(n, batch_size, rows):
  steps = schema.to_steps(f"{n} examples", "k", batch_size=batch_size)
  assert steps == 1 or abs(steps * batch_size - n) <= batch_size / 2
  epochs = schema.to_steps("2 epochs", "k", batch_size=batch_size, num_examples=rows)
  assert epochs == 1 or abs(epochs * batch_size - 2 * rows) <= batch_size / 2


# The reference's rule is max(1, round(epochs * (rows / batch))), by hand with the paper's numbers
# of rows: VQAv2's 658 111 make 2570.746 steps of 256 an epoch, GQA's 1 075 062 make 4199.46.
@pytest.mark.parametrize(
  "text, batch_size, rows, expected",
  [
    ("10 epochs", 256, 658_111, 25_707),
    ("1 epoch", 256, 1_075_062, 4_199),
    ("2832175 examples", 256, 0, 11_063),  # COCO-35L: 11 063.18.
    ("1 epoch", 2, 5, 2),
    ("1 epoch", 2, 7, 4),  # Python's round: a half to the even number.
    ("1 epoch", 256, 10, 1),
  ],
)
def test_lengths_of_published_runs_are_those_of_the_reference(text, batch_size, rows, expected):
  assert schema.to_steps(text, "k", batch_size=batch_size, num_examples=rows) == expected


def test_a_share_is_rounded_to_the_nearest_step_but_never_to_none():
  assert schema.to_steps("10%", "k", batch_size=1, total_steps=1004) == 100
  assert schema.to_steps("0.01%", "k", batch_size=1, total_steps=10) == 1
  assert schema.to_steps("end", "k", batch_size=1, total_steps=7) == 7
  assert schema.to_steps("0%", "k", batch_size=1, total_steps=7) == 0


@pytest.mark.parametrize("text", ["10%", "1 epochs", "1.5 steps"])
def test_a_unit_whose_base_is_unknown_is_a_config_error(text):
  with pytest.raises(errors.ConfigError, match=r"train\.total"):
    schema.to_steps(text, "train.total", batch_size=4)
