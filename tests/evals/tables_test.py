"""The scores of rows: what is promised of every metric that has them."""

import inspect

import numpy as np
import pytest

from paligemma_jax import evals
from paligemma_jax.evals import scoring
from paligemma_jax.evals import tables

_LOCS = "<loc0000><loc0000><loc1023><loc0700>"
ROWS = {
  "chartqa": ([{"answer": "1"}, {"answer": "b"}, {"answer": "3"}], ["1.04", "b", "9"]),
  "coco_caption": (
    [{"captions": ["a b"]}, {"captions": []}, {"captions": "c"}],
    ["a b", "x", "d"],
  ),
  "error_rate": ([{"suffix": "ab"}, {"suffix": []}, {"suffix": "c"}], ["ab", "x", "d"]),
  "exact_match": ([{"suffix": "a"}, {"suffix": ["b", "c"]}, {"suffix": "d"}], ["a", "c", "x"]),
  "mmvp": ([{"answer": "x b", "pair": p} for p in (1, 1, 2)], ["x b", "x b", "c"]),
  "pope": ([{"answer": "yes"}, {"answer": "no"}, {"answer": "no"}], ["yes", "no", "x"]),
  "rsvqa": (
    [{"answers": "a", "question_type": t} for t in ("comp", "area", "comp")],
    ["a", "a", "b"],
  ),
  "science_qa": ([{"answer": "a"}] * 3, ["The answer is A.", "The answer is B.", "A"]),
  "segmentation": (
    [{"mask": np.ones((8, 8), bool), "box": (0, 0, 1, 1)}] * 3,
    [_LOCS + "<seg007>" * 16, "cat", _LOCS + "<seg000>" * 16],
  ),
  "tallyqa": ([{"answer": n, "issimple": n % 2} for n in (1, 2, 33)], ["one", "3", "33"]),
  "vqa_accuracy": ([{"suffix": ["a"] * 3}, {"suffix": []}, {"suffix": "b"}], ["a", "a", "b"]),
  "vqav2": ([{"answers": ["a", "b"] * 5, "answer_type": "other"}] * 3, ["a", "b", "c"]),
}

# A row's score depends on the others: on its partner, or on how many have a word.
TOGETHER = ("coco_caption", "mmvp")


@pytest.mark.parametrize("metric", scoring.TABLES)
def test_the_metric_is_the_summary_of_its_table(metric):
  rows, predictions = ROWS[metric]
  table_of, summary = scoring.TABLES[metric]
  table = table_of(predictions, rows)
  assert all(v.shape == (3,) and v.dtype == np.float64 for v in table.values())
  assert summary(table) == evals.score(metric, predictions, rows)
  # The table of some rows is what scoring these rows gives.
  chosen = [2, 0]
  some = table_of([predictions[i] for i in chosen], [rows[i] for i in chosen])
  part = tables.take(table, np.array(chosen))
  for name in some if metric not in TOGETHER else ():
    np.testing.assert_array_equal(part[name], some[name], err_msg=name)
  assert metric in TOGETHER or summary(part) == summary(some)


@pytest.mark.parametrize("metric", scoring.TABLES)
def test_a_table_takes_the_options_of_its_metric(metric):
  options = [
    [p for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for f in (evals.METRICS[metric], scoring.TABLES[metric][0])
  ]
  assert options[0] == options[1]


@pytest.mark.parametrize("metric", scoring.TABLES)
def test_of_no_rows_there_is_a_summary_too(metric):
  table_of, summary = scoring.TABLES[metric]
  result = summary(table_of([], []))
  num = result["total" if metric == "segmentation" else "num"]  # The reference's name.
  assert num == 0.0 and all(np.isfinite(v) for v in result.values())


def test_rows_that_do_not_count_are_in_no_mean():
  table = tables.make({"acc": [1.0, tables.NONE, 0.0], "acc/x": [tables.NONE] * 3})
  assert tables.mean(table["acc"]) == 0.5 and tables.count(table["acc"]) == 2.0
  assert tables.parts(table, "acc") == {} and tables.mean(table["acc/x"]) == 0.0
