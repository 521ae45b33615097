"""What a run costs."""

import math

import pytest

from paligemma_jax.planning import answer
from paligemma_jax.planning import prices
from paligemma_jax.planning import targets

# On eight chips of 197 TFLOP/s each a step of 1e15 needed operations takes 0.6345 s at their peak.
_FOUND = {"num_devices": 8, "flops_needed": 10**15}
_AT_PEAK = 10**15 / 8 / 197e12


def _cost(on="v5e-8", steps=1000, least=0.0, mfu=0.0, price=0.0):
  return prices.cost(
    _FOUND,
    targets.get(on),
    least_step_secs=least,
    num_steps=steps,
    mfu=mfu,
    usd_per_chip_hour=price,
  )


def test_a_run_costs_its_steps_at_the_share_of_the_peak_that_was_measured():
  found = _cost(mfu=0.5)
  hours = 8 * 1000 * _AT_PEAK / 0.5 / 3600
  assert math.isclose(found["chip_hours"], hours) and math.isclose(found["usd"], 1.2 * hours)
  (first, second) = answer._cost(found)
  assert "cost of 1000 steps: 2.82 chip hours at 1.27 s a step (50% of the peak, as given)" in first
  assert "1.2 USD a chip hour (Google's list price in us-central1" in second


def test_an_assumed_share_is_said_to_be_one():
  found = _cost()
  assert math.isclose(found["step_secs"], _AT_PEAK / prices.ASSUMED_MFU)
  assert "(30% of the peak, assumed)" in answer._cost(found)[0]


def test_no_step_is_faster_than_the_least_that_it_takes():
  found = _cost(mfu=0.5, least=9.0)
  assert found["step_secs"] == 9 and found["is_at_least"]
  assert "9 s a step (the least that it takes)" in answer._cost(found)[0]


def test_the_users_price_goes_before_the_list():
  assert _cost(price=0.5)["usd"] == 0.5 * _cost()["chip_hours"]
  assert "at 0.5 USD a chip hour (--price)" in answer._cost(_cost(price=0.5))[1]


def test_the_number_of_slices_and_cores_is_not_in_the_price_of_a_chip():
  assert _cost("v5e-8x2")["usd_per_chip_hour"] == 1.2
  assert _cost("v5p-8")["usd_per_chip_hour"] == 4.2


def test_cards_have_no_list_price_and_cpus_no_cost():
  found = _cost("h100x8")
  assert found["chip_hours"] > 0 and found["usd"] == 0 and len(answer._cost(found)) == 1
  assert _cost("local") == {} == dict(answer._cost({}))


@pytest.mark.parametrize("generation", targets._TPUS)
def test_every_kind_of_tpu_has_a_price_with_its_date(generation):
  price = prices._PRICES[generation]
  assert price.usd > 0 and "2026-" in price.source
