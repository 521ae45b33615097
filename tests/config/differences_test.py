"""What differs is named field by field, and nothing else is."""

import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.config import load
from paligemma_jax.core import spec as specs
from tests.core import stand_ins


def _texts(before, after, path="train.pp"):
  found = load.between(specs.to_json(before), specs.to_json(after), path)
  return [one.text for one in found]


@pytest.mark.parametrize(
  "before, after, expected",
  [
    (8, 16, ["train.pp: 8 -> 16"]),
    (1, True, ["train.pp: 1 -> True"]),
    (1, 1.0, []),
    ((1, 2), (1, 3), ["train.pp[1]: 2 -> 3"]),
    ({"a": 1}, {"a": 1, "b": 2}, ["train.pp.b: (absent) -> 2"]),
    (
      (pp.Decode(), pp.Resize(224)),
      (pp.Decode(), pp.Resize(448)),
      ["train.pp[1].size: 224 -> 448"],
    ),
  ],
)
def test_the_least_parts_that_differ_are_named(before, after, expected):
  assert _texts(before, after) == expected
  assert _texts(before, before) == []


def test_an_op_that_was_added_or_taken_out_is_named_alone():
  before = (pp.Decode(), pp.Resize(224))
  after = (pp.Decode(), pp.Format("caption en"), pp.Resize(224))
  (added,) = _texts(before, after)
  assert added.startswith("train.pp[1]: Format(")
  assert added.endswith("is new")
  (gone,) = _texts(after, before)
  assert gone.startswith("train.pp[1]: Format(")
  assert gone.endswith("is gone")


def test_a_field_inside_a_part_of_a_mixture_is_named():
  make = lambda path: sources.Mixture((sources.Part(sources.Jsonl(path)),))  # noqa: E731
  assert _texts(make("a.jsonl"), make("b.jsonl"), "train.source") == [
    "train.source.parts[0].source.path: 'a.jsonl' -> 'b.jsonl'"
  ]


def test_another_class_is_one_difference_and_the_users_module_is_none():
  here = specs.to_json(stand_ins.Rows(("a",)))
  there = {**here, "__spec__": "config_file_mine:Rows"}
  assert load.between(here, there, "x") == []
  assert load.nameless(here) == load.nameless(there)
  (one,) = load.between(here, {**here, "__spec__": "config_file_mine:Others"}, "x")
  assert "Rows(" in one.text
  assert "Others(" in one.text


@pytest.mark.parametrize("field, default", [("outside", "error"), ("shuffle", False)])
def test_a_field_that_an_older_version_lacked_counts_as_its_default(field, default):
  now = specs.to_json((pp.Decode(), pp.Boxes(bins=1023)))
  assert now[1][field] == default
  before = [now[0], {name: value for name, value in now[1].items() if name != field}]
  assert load.between(before, now, "ops") == load.between(now, before, "ops") == []
  changed = [now[0], {**now[1], field: "other"}]
  (one,) = load.between(before, changed, "ops")
  assert one.text == f"ops[1].{field}: {default!r} -> 'other'"
  # Beside a change that moves the ops, too.
  (added,) = load.between(before, [specs.to_json(pp.Lower()), *now], "ops")
  assert added.text.startswith("ops[0]: Lower(")


def test_the_file_in_which_a_spec_of_ours_stands_is_no_difference():
  now = specs.to_json(pp.DrawBox())
  assert load.between({**now, "__spec__": "paligemma_jax.pp.drawing:DrawBox"}, now, "x") == []
  (one,) = load.between({**now, "__spec__": "paligemma_jax.pp.drawing:DrewBox"}, now, "x")
  assert one.text.startswith("x: DrewBox(")


def test_a_long_value_is_cut():
  (text,) = _texts("a" * 5000, "b")
  assert len(text) < 150
