"""Samplers: what each may draw, how often, and what is refused."""

import jax
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.decoding import search

_PROBS = np.array([0.05, 0.5, 0.15, 0.3])
_NUM_DRAWS = 4000


def _shares(sampler, probs=_PROBS):
  """How often each token is drawn."""
  logits = np.tile(np.log(probs).astype(np.float32), (_NUM_DRAWS, 1))
  keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
  drawn = np.asarray(search.sampler(sampler)(logits, keys))
  return np.bincount(drawn, minlength=len(probs)) / _NUM_DRAWS


def _of(probs):
  return np.array(probs) / np.sum(probs)


@pytest.mark.parametrize(
  "sampler, shares",
  [
    ("greedy", [0, 1, 0, 0]),
    ("temperature(1)", _PROBS),
    ("temperature(0.5)", _of(_PROBS**2)),
    ("top_k(1)", [0, 1, 0, 0]),
    ("top_k(2)", _of([0, 0.5, 0, 0.3])),
    ("top_k(3, 0.5)", _of([0, 0.25, 0.0225, 0.09])),
    ("top_k(9)", _PROBS),
    ("nucleus(1.0)", _PROBS),
    ("nucleus(0.5)", [0, 1, 0, 0]),
    ("nucleus(0.51)", _of([0, 0.5, 0, 0.3])),
    ("nucleus( 0.9 , 1.0 )", _of([0, 0.5, 0.15, 0.3])),
    ("nucleus(0.9, 0.5)", _of([0, 0.25, 0, 0.09])),  # Squared, two already have 0.93.
  ],
)
def test_shares(sampler, shares):
  got = _shares(sampler)
  np.testing.assert_array_equal(got[np.asarray(shares) == 0], 0)
  # Four standard deviations of a share of one half.
  np.testing.assert_allclose(got, shares, rtol=0, atol=4 * 0.5 / _NUM_DRAWS**0.5)


@pytest.mark.parametrize("sampler", ["top_k(2)", "draw(2, 1, 1)", "draw(2, 0.99, 1)"])
def test_of_equal_tokens_no_more_than_k_are_drawn(sampler):
  got = _shares(sampler, probs=np.full(5, 0.2))
  assert np.all(got[:2] > 0.4) and not got[2:].any()
  assert _shares("top_k(1)", probs=np.full(5, 0.2))[0] == 1


@pytest.mark.parametrize(
  "sampler, logged",
  [
    ("gredy", "Did you mean 'greedy'"),
    ("temperature(0)", "above 0"),
    ("temperature", "0 arguments; it takes 1"),
    ("temperature(a)", "not numbers"),
    ("nucleus(1.5)", r"in (0, 1]"),
    ("nucleus(0.9, 0)", "above 0"),
    ("top_k(0)", "at least 1"),
    ("top_k(2.5)", "whole number"),
    ("greedy(1)", "1 arguments; it takes 0"),
    ("top_k(3", "not of the form"),
  ],
)
def test_what_is_no_sampler_is_named(sampler, logged):
  with pytest.raises(errors.ConfigError) as e:
    search.sampler(sampler)
  assert logged in str(e.value) and repr(sampler.split("(")[0])[1:-1] in str(e.value)
