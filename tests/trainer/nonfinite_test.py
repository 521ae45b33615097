"""Skipped steps end a run when there are too many of them, and the error says where to go on."""

import types

import pytest

from paligemma_jax.core import errors
from paligemma_jax.trainer import nonfinite


def policy(*, in_a_row=3, share=0.0, total=100):
  optim = types.SimpleNamespace(nonfinite_in_a_row=in_a_row, nonfinite_share=share)
  return nonfinite.Policy(optim, total, lambda first: f"Skipped from step {first} on.")


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
  with pytest.raises(errors.NumericsError, match=r"step 5, 3 times in a row.*from step 3 on"):
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
  judged.restore({"count": 5, "streak": 0, "forgiven": 0}, anew=False)
  with pytest.raises(errors.NumericsError):
    judged.take(60, True, [0])


def test_going_back_forgives_what_was_before_also_after_the_next_restart():
  judged = policy(share=0.05, total=100)
  judged.restore({"count": 5, "streak": 2, "forgiven": 0}, anew=True)
  for step in (60, 62):
    judged.take(step, True, [0])
    judged.take(step + 1, False, [0])
  again = policy(share=0.05, total=100)
  again.restore(judged.facts, anew=False)
  for step in (64, 66, 68):
    again.take(step, True, [0])
    again.take(step + 1, False, [0])
  assert again.count == 10
  with pytest.raises(errors.NumericsError, match="6 times in all"):
    again.take(70, True, [0])


def lines(*losses):
  return [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]


def test_the_last_saved_step_before_the_loss_went_bad_is_named():
  found = nonfinite.advice(lines(5.0, 4.8, 4.9, 4.5, 300.0, 1e5, 1e6), [2, 4, 6], 8)
  # The update of step 4 made the loss of step 5: the state of step 4 is damaged already.
  assert "--resume_step 2" in found and "sane loss (4.8)" in found


def test_a_state_right_before_the_skipped_steps_is_not_trusted():
  assert "--resume_step 2" in nonfinite.advice(lines(5.0, 4.8, 4.9, 4.5), [2, 4], 5)


def test_where_no_saved_state_is_sane_a_new_workdir_is_advised():
  found = nonfinite.advice(lines(5.0, 1e4, 1e6, 1e6), [2, 4], 5)
  assert "another --workdir" in found and "--resume_step" not in found
