"""The scores of rows: what is promised of every metric that has them."""

import dataclasses

import numpy as np
import pytest

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base

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

BY_ROW = [name for name, cls in evals.METRICS.items() if issubclass(cls, evals.Metric)]


def test_all_metrics_but_those_of_boxes_score_rows():
  assert set(evals.METRICS) - set(BY_ROW) == {"box_accuracy", "coco_detection"}
  assert set(BY_ROW) == set(ROWS)


def table_of(metric, predictions, rows):
  return metric.table(rows, [evals.Output(i, text) for i, text in enumerate(predictions)])


@pytest.mark.parametrize("name", BY_ROW)
def test_the_metric_is_the_summary_of_its_table(name):
  rows, predictions = ROWS[name]
  metric = evals.METRICS[name]("x", None)
  table = table_of(metric, predictions, rows)
  assert all(v.shape == (3,) and v.dtype == np.float64 for v in table.values())
  assert metric.summary(table) == evals.score(name, predictions, rows)
  # The table of some rows is what scoring these rows gives.
  chosen = [2, 0]
  some = table_of(metric, [predictions[i] for i in chosen], [rows[i] for i in chosen])
  part = base.take(table, np.array(chosen))
  for column in some if name not in TOGETHER else ():
    np.testing.assert_array_equal(part[column], some[column], err_msg=column)
  assert name in TOGETHER or metric.summary(part) == metric.summary(some)


@pytest.mark.parametrize("name", evals.METRICS)
def test_score_takes_the_fields_of_the_metrics_own_and_no_others(name):
  own = {f.name for f in dataclasses.fields(evals.METRICS[name])}
  own -= {f.name for f in dataclasses.fields(evals.Evaluator)}
  defaults = evals.METRICS[name]("x", None)
  options = {field: getattr(defaults, field) for field in own}
  assert evals.score(name, [], [], **options) == evals.score(name, [], [])
  for wrong in ("name", "max_len", "reads", "nonesuch"):
    with pytest.raises(errors.ConfigError, match=f"no option '{wrong}'"):
      evals.score(name, [], [], **{wrong: 1})


@pytest.mark.parametrize("name", evals.METRICS)
def test_the_columns_that_a_metric_reads_are_named_by_its_fields(name):
  metric = evals.METRICS[name]
  fields = {f.name for f in dataclasses.fields(metric)}
  assert {*metric.reads, *metric.may_read} <= fields and metric.reads


@pytest.mark.parametrize("name", BY_ROW)
def test_of_no_rows_there_is_a_summary_too(name):
  metric = evals.METRICS[name]("x", None)
  result = metric.summary(metric.table([], []))
  num = result["total" if name == "segmentation" else "num"]  # The reference's name.
  assert num == 0.0 and all(np.isfinite(v) for v in result.values())


def test_rows_that_do_not_count_are_in_no_mean():
  table = {"acc": np.array([1.0, base.NONE, 0.0]), "acc/x": np.array([base.NONE] * 3)}
  assert base.mean_of(table["acc"]) == 0.5 and base.count(table["acc"]) == 2.0
  assert evals.Metric("x", None).summary(table) == {"acc": 0.5, "num": 3.0}
  assert base.mean_of(table["acc/x"]) == 0.0


@spec.spec
class Length(evals.Metric):
  """Relative length of the answer, in all and by language; nothing of an empty target."""

  target: str = "suffix"
  language: str = ""

  reads = ("target",)
  may_read = ("language",)

  def score_row(self, prediction, row):
    if not row[self.target]:
      return {}
    if row[self.target] == "bad":
      raise errors.DataError("the target is bad.")
    ratio = len(prediction) / len(row[self.target])
    return {"length": ratio, **({f"length/{row[self.language]}": ratio} if self.language else {})}


def test_a_metric_is_what_it_says_of_a_row():
  rows = [
    {"suffix": "ab", "in": "th"},
    {"suffix": "", "in": "en"},
    {"suffix": "c", "in": "en"},
    {"suffix": "abcd", "in": "th"},
  ]
  outputs = [evals.Output(i, text) for i, text in enumerate(("a", "x", "y", "abc"))]
  metric = Length("val/length", None)
  assert metric.columns() == ("suffix",)
  assert metric.score(rows, outputs) == {"length": 0.75, "num": 4.0}
  metric = metric.replace(language="in", bootstrap=20)
  assert metric.columns() == ("suffix", "in")
  assert list(metric.score(rows, outputs).items()) == [
    ("length", 0.75),
    ("length/en", 1.0),
    ("num/en", 1.0),
    ("length/th", 0.625),
    ("num/th", 2.0),
    ("num", 4.0),
  ]
  found = evals.intervals(metric, rows, outputs)
  assert found["length/low"] <= 0.75 <= found["length/high"]
  assert metric.score([], []) == {"num": 0.0}
  with pytest.raises(errors.DataError, match=r"^Row 1 of those to score: the target is bad\.$"):
    metric.score([rows[0], {"suffix": "bad"}], outputs[:2])
