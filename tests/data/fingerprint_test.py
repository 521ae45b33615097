"""A change of the data under a run is seen, and what changed is named."""

import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.data import order
from paligemma_jax.data import tokenizer as tokenizer_lib
from tests import golden_files
from tests.data import rows_and_ops


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizer_lib.Tokenizer(golden_files.path("bv/tok4k.model"))


def test_equal_data_has_equal_fingerprints(tokenizer):
  make = lambda: order.fingerprint(  # noqa: E731
    rows_and_ops.Rows(5), (pp.Resize(8),), tokenizer, seed=1, buckets=(4, 8)
  )
  assert order.changes(make(), make()) == {}
  assert "Pillow" in make()["image decoder"]


@pytest.mark.parametrize(
  "rows, ops, settings, named",
  [
    (rows_and_ops.Rows(6), (pp.Resize(8),), {"seed": 1}, "rows: '5 []' -> '6 []'"),
    (rows_and_ops.Rows(5), (pp.Resize(9),), {"seed": 1}, "ops[0].size: 8 -> 9"),
    (rows_and_ops.Rows(5), (pp.Resize(8),), {"seed": 2}, "seed: '1' -> '2'"),
    (rows_and_ops.Rows(5), (pp.Resize(8),), {}, "seed: '1' -> '(absent)'"),
  ],
)
def test_what_changed_is_named(rows, ops, settings, named, tokenizer):
  before = order.fingerprint(rows_and_ops.Rows(5), (pp.Resize(8),), tokenizer, seed=1)
  now = order.fingerprint(rows, ops, tokenizer, **settings)
  assert list(order.changes(before, now).values()) == [[named]]


def test_the_ops_of_an_older_version_that_lacked_a_field_are_unchanged(tokenizer):
  now = order.fingerprint(rows_and_ops.Rows(5), (pp.Boxes(bins=1024),), tokenizer)
  before = {**now, "ops": now["ops"].replace('"outside": "error", ', "")}
  assert before != now
  assert order.changes(before, now) == {}


@pytest.mark.parametrize("num", [1, 7, 8, 9, 100])
def test_many_rows_have_few_digests_and_the_first_that_differs_is_among_them(num, monkeypatch):
  monkeypatch.setattr(order, "MAX_DIGESTS", 8)
  make = lambda changed: sources.InMemory(  # noqa: E731
    tuple({"suffix": "x" if i == changed else str(i)} for i in range(num))
  ).open()
  before = order.digests(make(-1))
  assert len(before) <= 8
  size = order.rows_each(num)
  for changed in range(num):
    rows = make(changed)
    text = order.row_changes(before, order.digests(rows), num, rows)
    first = changed // size * size
    assert f"row {first}" in text
