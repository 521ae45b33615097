"""Confidence intervals: fast and slow way agree, cover the target, depend on the seed alone."""

import numpy as np
import pytest

from paligemma_jax import evals
from paligemma_jax.evals import base

HITS = np.random.default_rng(0).random(400) < 0.7
ROWS = [{"suffix": "a"}] * 400
SAID = ["a" if hit else "b" for hit in HITS]


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
  result = evals.score("exact_match", SAID, ROWS, bootstrap=2000)
  share = HITS.mean()
  half = 1.96 * np.sqrt(share * (1 - share) / 400)
  # 2000 draws know the ends to about a twentieth of half the width.
  assert result["acc/low"] == pytest.approx(share - half, abs=half / 8)
  assert result["acc/high"] == pytest.approx(share + half, abs=half / 8)
  assert result["acc"] == share and "num/low" not in result


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
  first, again, other = (
    evals.score("exact_match", SAID, ROWS, bootstrap=100, seed=seed) for seed in (1, 1, 2)
  )
  assert first == again != other


def test_a_mean_and_what_is_no_mean_are_drawn_from_the_same_rows():
  values = np.random.default_rng(1).random(50)

  def value_of(indices):
    mean = float(np.mean(values[list(indices)]))
    # Of one row it is no square: nobody takes it for a mean.
    return {"mean": mean, "square": mean**2, "num": float(len(indices))}

  found = base.intervals(value_of, 50, num_samples=300)
  assert set(found) == {"mean/low", "mean/high", "square/low", "square/high"}
  # Quantiles lie between two draws, so that the square of one is not quite that of the squares.
  assert found["square/low"] == pytest.approx(found["mean/low"] ** 2, rel=1e-2)
  assert found["square/high"] == pytest.approx(found["mean/high"] ** 2, rel=1e-2)


def test_a_metric_without_a_table_is_scored_anew():
  box = "<loc0000><loc0000><loc0512><loc0512> cat"
  rows = [{"suffix": box}] * 20
  predicted = [box if i % 2 else "" for i in range(20)]
  assert not issubclass(evals.METRICS["box_accuracy"], evals.Metric)
  result = evals.score("box_accuracy", predicted, rows, bootstrap=50)
  assert 0.2 < result["acc/0.5/low"] < 0.5 < result["acc/0.5/high"] < 0.8


def test_an_evaluator_gives_the_intervals_of_its_metric():
  outputs = [evals.Output(i, text) for i, text in enumerate(SAID)]
  spec = evals.ExactMatch("val/em", None, bootstrap=200)
  whole = evals.score("exact_match", SAID, ROWS, bootstrap=200, seed=3)
  found = evals.intervals(spec, ROWS, outputs, seed=3)
  assert found == {k: whole[k] for k in ("acc/low", "acc/high")}
  assert evals.intervals(spec.replace(bootstrap=0), ROWS, outputs) == {}
  loss = [evals.Output(i, loss_sum=float(i), num_tokens=2) for i in range(9)]
  found = evals.intervals(evals.Perplexity("val/loss", None, bootstrap=99), [{}] * 9, loss)
  assert found["loss/low"] < 2 < found["loss/high"] and "num_tokens/low" not in found


def test_of_one_row_nothing_is_said():
  assert "acc/low" not in evals.score("exact_match", ["a"], [{"suffix": "a"}], bootstrap=10)
