"""Makes loaders and takes batches from them, for the tests of this folder."""

import itertools

import numpy as np

from paligemma_jax.data import loader
from paligemma_jax.data import tokenizer as tokenizer_lib
from tests import golden_files
from tests.data import rows_and_ops

OPS = (rows_and_ops.Paint(),)


def read_tokenizer():
  return tokenizer_lib.Tokenizer(golden_files.path("bv/tok4k.model"))


def make(tokenizer, rows=None, ops=OPS, **options):
  defaults = {"batch_size": 8, "text_len": 24, "overflow": "error", "seed": 3, "shuffle": True}
  rows = rows_and_ops.Rows(20) if rows is None else rows
  return loader.TrainLoader(rows, ops, tokenizer, **{**defaults, **options})


def take(train_loader, n, start_step=0):
  batches = train_loader.batches(start_step)
  out = list(itertools.islice(batches, n))
  batches.close()
  return out


def assert_same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    assert sorted(one) == sorted(other)
    for name in one:
      assert one[name].dtype == other[name].dtype
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)
