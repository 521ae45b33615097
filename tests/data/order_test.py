"""The order of rows is a permutation of every epoch, and a function of the step alone."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax.core import prng
from paligemma_jax.data import order


def rows(step, n, batch_size, *, seed=0, shuffle=True):
  return order.rows_of_step(step, num_rows=n, batch_size=batch_size, seed=seed, shuffle=shuffle)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(n=st.integers(1, 1500), seed=st.integers(-(2**63), 2**64))
def test_every_epoch_visits_every_row_once(n, seed):
  batch_size = min(n, 64)
  num_steps = -(-2 * n // batch_size)
  seen = collections.defaultdict(list)
  for step in range(num_steps):
    for epoch, row in rows(step, n, batch_size, seed=seed):
      seen[epoch].append(row)
  assert sorted(seen[0]) == sorted(seen[1]) == list(range(n))


def test_permute_is_a_bijection_for_every_small_size_and_key():
  for n in range(1, 130):
    for key in range(3):
      out = prng.permute(np.arange(n), n, prng.key(key))
      assert sorted(out.tolist()) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
  def epoch(number, seed):
    return tuple(row for _, row in rows(number, 100, 100, seed=seed))

  orders = {epoch(number, seed) for number in range(5) for seed in range(5)}
  assert len(orders) == 25


def test_the_order_does_not_depend_on_the_batch_size():
  def flat(batch_size):
    return [slot for step in range(240 // batch_size) for slot in rows(step, 37, batch_size)]

  assert flat(1) == flat(8) == flat(40)


def test_without_shuffling_it_is_the_order_of_the_file():
  assert rows(1, 5, 4, shuffle=False) == [(0, 4), (1, 0), (1, 1), (1, 2)]


def test_positions_are_spread_evenly():
  counts = np.zeros((10, 10), int)
  for seed in range(1000):
    for position, row in enumerate(prng.permute(np.arange(10), 10, prng.key(seed))):
      counts[position, row] += 1
  # 100 expected in each cell, sigma is 9.5: six sigmas for a hundred cells.
  assert np.abs(counts - 100).max() < 57
  chi_square = ((counts - 100) ** 2 / 100).sum()
  assert 40 < chi_square < 150  # 81 degrees of freedom: mean 81, sigma 12.7.


def test_neighbours_in_the_file_are_not_neighbours_in_the_order():
  sequence = [row for _, row in rows(0, 5000, 5000)]
  assert np.abs(np.corrcoef(sequence, range(5000))[0, 1]) < 0.06  # Sigma is 0.014.
  assert (np.abs(np.diff(sequence)) == 1).sum() < 12  # 2 are expected.


def test_this_order_stays_the_same_for_ever():
  # A run that is resumed with a newer version must go on in its own order.
  assert [row for _, row in rows(0, 10, 10, seed=7)] == FROZEN
  assert [prng.choice_index(7, 3, epoch, 4) for epoch in range(8)] == FROZEN_CHOICES
  assert order.row_rng(7, 1, 3).integers(1 << 30) == FROZEN_DRAW


FROZEN = [0, 6, 3, 5, 7, 4, 2, 1, 8, 9]
FROZEN_CHOICES = [0, 2, 3, 1, 3, 2, 0, 1]
FROZEN_DRAW = 199910246


def test_a_batch_larger_than_the_data_goes_round():
  slots = rows(0, 3, 8)
  assert [epoch for epoch, _ in slots] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_each_choice_comes_once_before_any_comes_twice(n):
  for row in range(30):
    taken = [prng.choice_index(0, row, epoch, n) for epoch in range(3 * n)]
    for start in range(0, 3 * n, n):
      assert sorted(taken[start : start + n]) == list(range(n))


def test_row_generators_differ_by_seed_epoch_and_row():
  drawn = {
    order.row_rng(seed, epoch, row).integers(1 << 40)
    for seed in range(4)
    for epoch in range(4)
    for row in range(4)
  }
  assert len(drawn) == 64
