"""Templates reach columns and nothing else; choices are a function of seed, row and epoch."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import text

RNG = np.random.default_rng(0)


def test_a_template_is_filled_from_columns():
  op = pp.Format("answer en {question} {{{n}}} {caption/text}")
  row = {"question": "why?", "n": 3, "caption/text": "x{y}"}
  assert op(row, RNG)["prefix"] == "answer en why? {3} x{y}"
  assert op.needs() == ("question", "n", "caption/text")
  assert op.makes() == ("prefix",)


@pytest.mark.parametrize(
  "template",
  ["{a.__class__}", "{a[0]}", "{0}", "{}", "{a!r}", "{a:>10}", "{a:{b}}", "{", "}", "{a", "{ a}"],
)
def test_a_field_that_is_more_than_a_column_fails_when_the_config_is_read(template):
  with pytest.raises(errors.ConfigError, match="template"):
    pp.Format(template)


@hypothesis.settings(deadline=None)
@hypothesis.given(template=st.text("{}abc.[]!:_0 ", max_size=20))
def test_templates_are_config_errors_or_need_plain_columns(template):
  try:
    op = pp.Format(template)
  except errors.ConfigError:
    return
  row = dict.fromkeys(op.needs(), "V")
  assert all("." not in name and "[" not in name for name in row)
  assert isinstance(op(row, RNG)["prefix"], str)


@hypothesis.settings(deadline=None)
@hypothesis.given(value=st.text())
def test_what_stands_in_a_row_is_never_a_template(value):
  assert pp.Format("a {q} b")({"q": value}, RNG)["prefix"] == f"a {value} b"


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, True, b"\xff"])
def test_a_value_that_is_no_text_names_the_column(value):
  with pytest.raises(errors.DataError, match="'question'"):
    pp.Format("{question}")({"question": value}, RNG)


def test_a_missing_column_is_named_with_its_near_match():
  with pytest.raises(errors.DataError, match="Did you mean 'question'"):
    pp.Format("{questoin}")({"question": "x"}, RNG)


def row_of(values, *, row=3, epoch=0, **more):
  return {"answers": values, "_seed": 5, "_row": row, "_epoch": epoch, **more}


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_each_answer_comes_once_before_any_comes_twice(n):
  values = [f"v{i}" for i in range(n)]
  for row in range(20):
    taken = [
      pp.Choice("answers")(row_of(values, row=row, epoch=e), RNG)["suffix"] for e in range(3 * n)
    ]
    for cycle in range(3):
      assert sorted(taken[cycle * n : (cycle + 1) * n]) == sorted(values)


def test_rows_start_with_different_answers():
  first = collections.Counter(
    pp.Choice("answers")(row_of(list("abcd"), row=row), RNG)["suffix"] for row in range(400)
  )
  assert min(first.values()) > 60  # 100 are expected of each; 60 is more than 4 sigma away.


def test_a_free_choice_draws_from_the_generator():
  taken = {
    pp.Choice("answers", each_once=False)(row_of(list("abc")), np.random.default_rng(i))["suffix"]
    for i in range(50)
  }
  assert taken == {"a", "b", "c"}


def test_several_columns_choose_the_same_entry():
  op = pp.Choice(("answers", "scores"), out=("suffix", "score"))
  for epoch in range(6):
    out = op(row_of(list("abc"), epoch=epoch, scores=[0, 1, 2]), RNG)
    assert "abc".index(out["suffix"]) == out["score"]
  with pytest.raises(errors.DataError, match="different lengths"):
    op(row_of(list("abc"), scores=[1]), RNG)


def test_an_empty_list_rejects_the_row():
  with pytest.raises(errors.DataError, match="'answers' is an empty list"):
    pp.Choice("answers")(row_of([]), RNG)


def test_the_small_ops():
  row = {"a": ["X", "Y", "X"], "i": 1, "s": "ÄB"}
  assert pp.Copy("s", "t")(row, RNG)["t"] == "ÄB"
  assert pp.Lower("s")(row, RNG)["s"] == "äb"
  assert pp.Lower("a")(row, RNG)["a"] == ["x", "y", "x"]
  assert pp.Join("a", glue=" \t ")(row, RNG)["a"] == "X \t Y \t X"
  assert pp.GetIndex("a", "i")(row, RNG)["suffix"] == "Y"
  assert pp.Majority("a")(row, RNG)["suffix"] == "X"
  assert row == {"a": ["X", "Y", "X"], "i": 1, "s": "ÄB"}


@pytest.mark.parametrize("index", [3, -1, 1.5, "one", True, None])
def test_an_index_outside_the_list_rejects_the_row(index):
  with pytest.raises(errors.DataError, match="'i'"):
    pp.GetIndex("a", "i")({"a": ["x"] * 3, "i": index}, RNG)


def test_every_op_survives_the_way_through_json():
  ops = (
    pp.Format("{a}"),
    pp.Choice(("a", "b"), out=("c", "d")),
    pp.Resize((3, 4)),
    pp.Decode(),
    pp.Boxes(bins=1024),
    pp.InceptionCrop(4),
    pp.StackImages(("a", "b")),
  )
  assert spec_lib.from_json(spec_lib.to_json(ops)) == ops


def test_the_table_of_ops_names_them_all():
  assert all(name == op.__name__ for name, op in pp.OPS.items())
  assert set(pp.__all__) == {"OPS", *pp.OPS}
  assert text.Format in pp.OPS.values()


def test_split_is_the_inverse_of_join():
  row = {"refs": "left dog\ndog on the left\n"}
  split = pp.Split("refs")(row, RNG)
  assert split["refs"] == ["left dog", "dog on the left"]
  assert pp.Join("refs", "\n")(split, RNG)["refs"] == row["refs"].strip()
  assert pp.Split("refs", glue=" ", out="words").makes() == ("words",)
  with pytest.raises(errors.ConfigError, match="glue"):
    pp.Split("refs", glue="")
