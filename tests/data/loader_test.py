"""Batches depend on the step alone: not on threads, hosts or restarts."""

import logging
import time

import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.data import loader
from paligemma_jax.data import reading
from tests.data import loading
from tests.data import rows_and_ops


@pytest.fixture(scope="module")
def tokenizer():
  return loading.read_tokenizer()


def test_a_batch_has_the_shapes_and_types_of_the_contract(tokenizer):
  (batch,) = loading.take(loading.make(tokenizer), 1)
  assert {name: (a.shape, str(a.dtype)) for name, a in batch.items()} == {
    "image": ((8, 4, 4, 3), "uint8"),
    "text": ((8, 25), "int32"),
    "mask_ar": ((8, 25), "int32"),
    "mask_loss": ((8, 25), "float32"),
    "_mask": ((8,), "bool"),
    "_row": ((8,), "int64"),
  }
  assert batch["_mask"].all()


def test_each_epoch_holds_every_row_and_redraws_what_is_random(tokenizer):
  batches = loading.take(loading.make(tokenizer), 5)
  seen = np.concatenate([b["_row"] for b in batches])
  assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
  pictures = np.concatenate([b["image"] for b in batches])
  first, second = (pictures[np.flatnonzero(seen == 7)[k]] for k in (0, 1))
  assert (first[0, 0] == (7, 0, 7)).all()
  assert (second[0, 0] == (7, 1, 7)).all()
  assert (first != second).mean() > 0.9


@pytest.mark.parametrize(
  "options",
  [
    {"num_threads": 0},
    {"num_threads": 1, "prefetch": 0},
    {"num_threads": 5, "prefetch": 8},
  ],
  ids=str,
)
def test_threads_and_prefetch_change_nothing(options, tokenizer):
  ops = (*loading.OPS, rows_and_ops.Sleep())
  expected = loading.take(loading.make(tokenizer, num_threads=2), 6)
  loading.assert_same(loading.take(loading.make(tokenizer, ops=ops, **options), 6), expected)


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_hosts_together_have_the_rows_of_one(process_count, tokenizer):
  expected = loading.take(loading.make(tokenizer), 4)
  shares = [
    loading.take(loading.make(tokenizer, process_index=i, process_count=process_count), 4)
    for i in range(process_count)
  ]
  joined = [
    {name: np.concatenate([share[t][name] for share in shares]) for name in expected[t]}
    for t in range(4)
  ]
  loading.assert_same(joined, expected)


def test_a_restart_at_any_step_gives_the_rest_of_the_run(tokenizer):
  # Three epochs of 41 rows, to step 60 and two beyond it.
  rows = rows_and_ops.Rows(41)
  options = {"rows": rows, "batch_size": 2, "buckets": (10, 16)}
  run = loading.take(loading.make(tokenizer, **options), 63)
  for step in range(61):
    found = loading.take(loading.make(tokenizer, **options), 2, start_step=step)
    loading.assert_same(found, run[step : step + 2])


def test_without_shuffling_rows_come_in_order(tokenizer):
  batches = loading.take(loading.make(tokenizer, shuffle=False), 3)
  assert np.concatenate([b["_row"] for b in batches]).tolist() == [*range(20), *range(4)]


def test_buckets_cut_the_padding_and_nothing_else(tokenizer):
  full = loading.take(loading.make(tokenizer), 6)
  cut = loading.take(loading.make(tokenizer, buckets=(8, 12, 16, 99)), 6)
  lengths = {b["text"].shape[1] for b in cut}
  assert lengths <= {9, 13, 17, 25}
  assert len(lengths) > 1
  for one, other in zip(cut, full, strict=True):
    size = one["text"].shape[1]
    for name in ("text", "mask_ar", "mask_loss"):
      np.testing.assert_array_equal(one[name], other[name][:, :size])
    assert not other["mask_loss"][:, size:].any()
    assert one["mask_loss"].sum() == other["mask_loss"].sum()
    shorter = max((b + 1 for b in (8, 12, 16) if b + 1 < size), default=0)
    assert one["mask_loss"][:, shorter:].any()  # The next smaller bucket would not have done.


def test_a_hosts_batch_in_the_length_of_another_is_that_of_one_without_buckets(tokenizer):
  def of_host(**more):
    return loading.take(loading.make(tokenizer, process_index=1, process_count=2, **more), 6)

  cut = of_host(buckets=(8, 12, 16))
  assert len({batch["text"].shape[1] for batch in cut}) > 1
  for short, whole in zip(cut, of_host(), strict=True):
    long = loader.lengthened(short, 25)
    assert loader.lengthened(short, short["text"].shape[1]).keys() == short.keys()
    for name, array in whole.items():
      np.testing.assert_array_equal(long[name], array, strict=True)


def test_a_hanging_op_is_an_error_not_a_hang(tokenizer):
  ops = (*loading.OPS, rows_and_ops.Sleep(at=9, secs=8))
  start = time.monotonic()
  named = r"stalled: no row for 1 s .*row 9 \(rows.txt:10\)"
  with pytest.raises(errors.StallError, match=named):
    loading.take(loading.make(tokenizer, ops=ops, stall_secs=1.0, num_threads=0), 5)
  assert time.monotonic() - start < 8


def test_a_wait_is_told_of_with_the_row_and_seldom(tokenizer, caplog, monkeypatch):
  monkeypatch.setattr(reading, "_SAY_SECS", 0.5)
  ops = (*loading.OPS, rows_and_ops.Sleep(at=9, secs=5))
  with caplog.at_level(logging.WARNING):
    loading.take(loading.make(tokenizer, ops=ops, num_threads=1, prefetch=1), 5)
  told = [r.getMessage() for r in caplog.records if "waited" in r.getMessage()]
  assert 4 <= len(told) <= 8  # In each of two epochs after 0.5, 1, 2 and 4 s.
  assert all("s for row 9 (rows.txt:10); after" in text for text in told)
  assert "train.stall_secs=60 s" in told[0]
