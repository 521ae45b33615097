"""A change of the data under a run is seen, and what changed is named."""

import pytest

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.data import fingerprint
from paligemma_jax.data import tokenizer as tokenizer_lib
from tests import golden_files
from tests.data import rows_and_ops


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizer_lib.Tokenizer(golden_files.path("bv/tok4k.model"))


def test_equal_data_has_equal_fingerprints(tokenizer):
  make = lambda: fingerprint.fingerprint(  # noqa: E731
      rows_and_ops.Rows(5), (pp.Resize(8),), tokenizer, seed=1, buckets=(4, 8)
  )
  fingerprint.check_same(make(), make())
  assert "Pillow" in make()["image decoder"]


@pytest.mark.parametrize(
    "rows, ops, settings, named",
    [
        (rows_and_ops.Rows(6), (pp.Resize(8),), {"seed": 1}, "rows: was 5"),
        (rows_and_ops.Rows(5), (pp.Resize(9),), {"seed": 1}, "ops: was"),
        (rows_and_ops.Rows(5), (pp.Resize(8),), {"seed": 2}, "seed: was 1, is 2"),
        (rows_and_ops.Rows(5), (pp.Resize(8),), {}, r"seed: was 1, is \(absent\)"),
    ],
)
def test_what_changed_is_named(rows, ops, settings, named, tokenizer):
  before = fingerprint.fingerprint(rows_and_ops.Rows(5), (pp.Resize(8),), tokenizer, seed=1)
  now = fingerprint.fingerprint(rows, ops, tokenizer, **settings)
  with pytest.raises(errors.ConfigError, match=named):
    fingerprint.check_same(before, now)
