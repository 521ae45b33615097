"""Skipped steps end a run when there are too many of them."""

import types

import pytest

from paligemma_jax.core import errors
from paligemma_jax.running import nonfinite


def policy(*, in_a_row=3, share=0.0, total=100):
  optim = types.SimpleNamespace(nonfinite_in_a_row=in_a_row, nonfinite_share=share)
  return nonfinite.Policy(optim, total)


def test_a_single_skipped_step_is_put_up_with_and_counted():
  judged = policy()
  for step in range(1, 50):
    judged.take(step, step == 7, [4, 2])
  assert judged.count == 1


def test_three_in_a_row_end_the_run_and_say_where():
  judged = policy(share=1.0)
  judged.take(1, True, [0])
  judged.take(2, False, [1])
  judged.take(3, True, [2])
  judged.take(4, True, [3])
  with pytest.raises(errors.NumericsError, match=r"step 5, 3 times in a row"):
    judged.take(5, True, [4])


def test_more_than_the_share_of_the_run_ends_it():
  judged = policy(share=0.05, total=100)
  for step in range(0, 10, 2):
    judged.take(step, True, [0])
    judged.take(step + 1, False, [0])
  with pytest.raises(errors.NumericsError, match="6 times in all"):
    judged.take(10, True, [0])


def test_the_count_goes_on_from_what_a_restarted_run_had():
  judged = policy(share=0.05, total=100)
  judged.count = 5
  with pytest.raises(errors.NumericsError):
    judged.take(60, True, [0])
