"""Batches depend on the step alone: not on threads, workers, hosts, restarts or bad neighbours."""

import itertools
import multiprocessing
import time

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.data import loader
from paligemma_jax.data import tokenizer as tokenizer_lib
from tests import golden_files
from tests.data import rows_and_ops
from tests.hostile import images

OPS = (rows_and_ops.Paint(),)


@pytest.fixture(scope="module")
def tokenizer():
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


def test_a_batch_has_the_shapes_and_types_of_the_contract(tokenizer):
  (batch,) = take(make(tokenizer), 1)
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
  batches = take(make(tokenizer), 5)
  seen = np.concatenate([b["_row"] for b in batches])
  assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
  pictures = np.concatenate([b["image"] for b in batches])
  first, second = (pictures[np.flatnonzero(seen == 7)[k]] for k in (0, 1))
  assert (first[0, 0] == (7, 0, 7)).all()
  assert (second[0, 0] == (7, 1, 7)).all()
  assert (first != second).mean() > 0.9


@pytest.mark.parametrize("options", [
    {"num_threads": 0}, {"num_threads": 1, "prefetch": 0}, {"num_threads": 5, "prefetch": 8},
], ids=str)
def test_threads_and_prefetch_change_nothing(options, tokenizer):
  ops = (*OPS, rows_and_ops.Sleep())
  expected = take(make(tokenizer, num_threads=2), 6)
  assert_same(take(make(tokenizer, ops=ops, **options), 6), expected)


@pytest.mark.slow  # 6 s: starts worker processes.
def test_worker_processes_change_nothing_also_from_the_middle_on(tokenizer):
  expected = take(make(tokenizer), 7)
  found = take(make(tokenizer, num_workers=2, num_threads=1, prefetch=2), 5, start_step=2)
  assert_same(found, expected[2:])


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_hosts_together_have_the_rows_of_one(process_count, tokenizer):
  expected = take(make(tokenizer), 4)
  shares = [
      take(make(tokenizer, process_index=i, process_count=process_count), 4)
      for i in range(process_count)
  ]
  joined = [
      {name: np.concatenate([share[t][name] for share in shares]) for name in expected[t]}
      for t in range(4)
  ]
  assert_same(joined, expected)


def test_a_restart_at_any_step_gives_the_rest_of_the_run(tokenizer):
  # Three epochs of 41 rows, to step 60 and two beyond it.
  rows = rows_and_ops.Rows(41)
  run = take(make(tokenizer, rows, batch_size=2, buckets=(10, 16)), 63)
  for step in range(61):
    found = take(make(tokenizer, rows, batch_size=2, buckets=(10, 16)), 2, start_step=step)
    assert_same(found, run[step : step + 2])


def test_without_shuffling_rows_come_in_order(tokenizer):
  batches = take(make(tokenizer, shuffle=False), 3)
  assert np.concatenate([b["_row"] for b in batches]).tolist() == [*range(20), *range(4)]


def test_buckets_cut_the_padding_and_nothing_else(tokenizer):
  full = take(make(tokenizer), 6)
  cut = take(make(tokenizer, buckets=(8, 12, 16, 99)), 6)
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


def test_several_hosts_use_the_full_length(tokenizer):
  (batch,) = take(make(tokenizer, buckets=(8,), process_count=2), 1)
  assert batch["text"].shape == (4, 25)


def test_a_rejected_row_keeps_its_slot_and_moves_no_other(tokenizer):
  good = take(make(tokenizer), 5)
  reported = []
  bad_loader = make(
      tokenizer, rows_and_ops.Rows(20, bad=(4, 11)), bad_rows=2,
      on_bad_row=lambda *report: reported.append(report),
  )
  found = take(bad_loader, 5)
  for one, other in zip(found, good, strict=True):
    np.testing.assert_array_equal(one["_row"], other["_row"])
    np.testing.assert_array_equal(one["_mask"], ~np.isin(one["_row"], (4, 11)))
    for name in ("image", "text", "mask_loss"):
      np.testing.assert_array_equal(one[name][one["_mask"]], other[name][one["_mask"]])
      assert not one[name][~one["_mask"]].any()
  assert sorted(reported) == [
      (4, "rows.txt:5", "row 4 is bad."), (11, "rows.txt:12", "row 11 is bad."),
  ]
  assert bad_loader.counts["rejected"] == 4
  assert bad_loader.counts["rows"] == 40


def test_the_first_bad_row_ends_the_run_unless_a_budget_allows_it(tokenizer):
  rows = rows_and_ops.Rows(20, bad=(4, 11))
  reported = []
  with pytest.raises(errors.DataError, match=r"1 bad rows, bad_rows allows 0.*\n  rows.txt:"):
    take(make(tokenizer, rows, on_bad_row=lambda *r: reported.append(r)), 5)
  assert len(reported) == 1
  with pytest.raises(errors.DataError, match=r"2 bad rows, bad_rows allows 1"):
    take(make(tokenizer, rows, bad_rows=1), 5)


def test_bad_rows_that_were_reported_before_a_restart_are_not_reported_again(tokenizer):
  rows = rows_and_ops.Rows(20, bad=(4, 11))
  reported = []
  options = {"bad_rows": 2, "on_bad_row": lambda *r: reported.append(r[0])}
  take(make(tokenizer, rows, known_bad=(4,), **options), 5)
  assert reported == [11]
  with pytest.raises(errors.DataError, match="2 bad rows, bad_rows allows 1"):
    take(make(tokenizer, rows, known_bad=(4,), bad_rows=1), 5)


def test_a_batch_of_bad_rows_alone_has_the_shape_of_the_others(tokenizer):
  rows = rows_and_ops.Rows(8, bad=range(4))
  batches = take(make(tokenizer, rows, batch_size=4, shuffle=False, bad_rows=4), 2)
  assert not batches[0]["_mask"].any()
  assert batches[0]["image"].shape == batches[1]["image"].shape
  with pytest.raises(errors.DataError, match="No row of the source can be used"):
    take(make(tokenizer, rows_and_ops.Rows(4, bad=range(4)), bad_rows=9), 1)


def test_long_texts_are_errors_cut_or_dropped_and_counted(tokenizer):
  with pytest.raises(errors.DataError, match=r"rows.txt:\d+: The text has"):
    take(make(tokenizer, text_len=8), 5)
  cutting = make(tokenizer, text_len=8, overflow="truncate")
  for batch in take(cutting, 5):
    assert ((batch["text"] == tokenizer.eos_id).sum(axis=1) == 1).all()
  dropping = make(tokenizer, text_len=8, overflow="drop")
  masks = [b["_mask"] for b in take(dropping, 5)]
  assert 0 < dropping.counts["dropped"] == sum((~m).sum() for m in masks)
  assert cutting.counts["truncated"] == dropping.counts["dropped"]
  assert not dropping.counts["rejected"]


def test_what_ops_remark_is_counted(tokenizer):
  ops = (*OPS, rows_and_ops.Set("_notes", ("odd",), at=(1, 2)))
  counting = make(tokenizer, ops=ops)
  take(counting, 5)
  assert counting.counts["odd"] == 4


@pytest.mark.parametrize(
    "op, reason",
    [
        (rows_and_ops.Broken(), r"rows.txt:\d+: op .*Broken\(\) failed: KeyError: 'nothing'"),
        (rows_and_ops.Set("image", 3), "'image' is int; expected uint8"),
        (rows_and_ops.Paint(side=6), ""),
    ],
)
def test_a_broken_op_ends_the_run_whatever_the_budget(op, reason, tokenizer):
  ops = (*OPS, op)
  if not reason:  # Images of two sizes.
    ops = (*OPS, _Resizing())
    reason = r"uint8\[6, 6, 3\], that of rows before it uint8\[4, 4, 3\]|same shape"
  with pytest.raises(errors.ConfigError, match=reason):
    take(make(tokenizer, ops=ops, bad_rows=99), 5)


class _Resizing:
  """Gives one row a larger image."""

  def __call__(self, row, rng):
    return rows_and_ops.Paint(side=6)(row, rng) if row["i"] == 5 else row


def test_a_missing_column_after_the_ops_is_named(tokenizer):
  with pytest.raises(errors.ConfigError, match="no 'image' after the ops"):
    take(make(tokenizer, ops=()), 1)
  with pytest.raises(errors.DataError, match="column 'suffix': expected text, found int"):
    take(make(tokenizer, ops=(*OPS, rows_and_ops.Set("suffix", 3))), 1)


def test_a_hanging_op_is_an_error_not_a_hang(tokenizer):
  ops = (*OPS, rows_and_ops.Sleep(at=9, secs=8))
  start = time.monotonic()
  with pytest.raises(errors.DataError, match="stalled: no row for 1 s"):
    take(make(tokenizer, ops=ops, stall_secs=1.0, num_threads=0), 5)
  assert time.monotonic() - start < 8


@pytest.mark.slow  # 4 s: starts a worker process.
def test_a_killed_worker_is_an_error_that_names_it(tokenizer):
  ops = (*OPS, rows_and_ops.Die(9))
  start = time.monotonic()
  with pytest.raises(errors.DataError, match="1 worker processes.*exit code -9"):
    take(make(tokenizer, ops=ops, num_workers=1, num_threads=1), 5)
  assert time.monotonic() - start < 60


@pytest.mark.slow  # 12 s: starts a worker process and waits until it is called stuck.
def test_a_stuck_worker_is_an_error_and_is_ended(tokenizer):
  ops = (*OPS, rows_and_ops.Sleep(at=9, secs=1e6))
  start = time.monotonic()
  with pytest.raises(errors.DataError, match="stalled"):
    take(make(tokenizer, ops=ops, num_workers=1, num_threads=1, stall_secs=3.0), 5)
  assert time.monotonic() - start < 60
  assert not multiprocessing.active_children()


def test_a_batch_that_cannot_be_shared_out_is_refused(tokenizer):
  with pytest.raises(errors.ConfigError, match="multiple of the number of processes, 3"):
    make(tokenizer, process_count=3)
  with pytest.raises(errors.DataError, match="no rows"):
    make(tokenizer, rows_and_ops.Rows(0))


def evaluate(tokenizer, rows=None, **options):
  rows = rows_and_ops.Rows(10) if rows is None else rows
  defaults = {"encoding": "decode", "batch_size": 4, "text_len": 12, "keep": ("i",)}
  return list(loader.eval_batches(rows, OPS, tokenizer, **{**defaults, **options}))


def test_evaluation_sees_each_row_once_in_order(tokenizer):
  out = evaluate(tokenizer)
  assert [b["_row"].tolist() for b, _ in out] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
  assert out[2][0]["_mask"].tolist() == [True, True, False, False]
  assert [kept for _, batch in out for kept in batch] == [{"i": i, "_row": i} for i in range(10)]
  assert {name: (a.shape, str(a.dtype)) for name, a in out[2][0].items()} == {
      "image": ((4, 4, 4, 3), "uint8"),
      "text": ((4, 12), "int32"),
      "mask_ar": ((4, 12), "int32"),
      "mask_input": ((4, 12), "int32"),
      "_mask": ((4,), "bool"),
      "_row": ((4,), "int64"),
  }


def test_the_answer_is_never_in_the_prompt(tokenizer):
  for batch, _ in evaluate(tokenizer):
    for text, row in zip(batch["text"], batch["_row"], strict=True):
      if row >= 0:
        ids = [i for i in text.tolist() if i]
        assert ids == [2, *tokenizer.encode(f"row {row}"), *tokenizer.separator_ids]


@pytest.mark.parametrize("limit, expected", [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (99, range(10))])
def test_a_limit_takes_the_first_rows(limit, expected, tokenizer):
  out = evaluate(tokenizer, limit=limit)
  assert [kept["_row"] for _, batch in out for kept in batch] == list(expected)


@pytest.mark.parametrize("num_rows", [1, 5, 16, 17])
@pytest.mark.parametrize("process_count", [1, 2])
def test_each_row_is_evaluated_on_exactly_one_host(num_rows, process_count, tokenizer):
  rows = rows_and_ops.Rows(num_rows)
  outs = [
      evaluate(tokenizer, rows, process_index=i, process_count=process_count)
      for i in range(process_count)
  ]
  assert len({len(out) for out in outs}) == 1
  seen = [kept["_row"] for out in outs for _, batch in out for kept in batch]
  assert sorted(seen) == list(range(num_rows))


def test_the_training_encoding_is_that_of_training(tokenizer):
  rows = rows_and_ops.Rows(8)
  (batch, _), *_ = evaluate(tokenizer, rows, encoding="train", batch_size=8, text_len=24, seed=3)
  (expected,) = take(make(tokenizer, rows, shuffle=False), 1)
  assert_same([batch], [expected])


def test_bad_rows_of_an_evaluation_follow_the_same_policy(tokenizer):
  rows = rows_and_ops.Rows(6, bad=(2,))
  with pytest.raises(errors.DataError, match="1 bad rows"):
    evaluate(tokenizer, rows)
  out = evaluate(tokenizer, rows, bad_rows=1)
  assert [kept["_row"] for _, batch in out for kept in batch] == [0, 1, 3, 4, 5]
  with pytest.raises(errors.ConfigError, match="no 'ii' after the ops"):
    evaluate(tokenizer, keep=("ii",))


def test_no_rows_are_no_batches(tokenizer):
  assert evaluate(tokenizer, rows_and_ops.Rows(0)) == []


def test_from_files_to_batches_with_one_broken_picture_among_good_ones(tmp_path, tokenizer):
  lines = []
  for i in range(8):
    data = images.rgb("PNG") if i != 5 else images.half(images.rgb("PNG"))
    (tmp_path / f"{i}.png").write_bytes(data)
    lines.append(f'{{"image": "{i}.png", "question": "q{i}", "answers": ["a", "b"]}}')
  (tmp_path / "rows.jsonl").write_text("\n".join(lines))
  rows = sources.Jsonl(str(tmp_path / "rows.jsonl"), columns=("image", "question")).open()
  ops = (pp.Decode(), pp.Resize(14), pp.Format("answer en {question}"), pp.Choice("answers"))
  reported = []
  (batch,) = take(
      make(tokenizer, rows, ops, shuffle=False, bad_rows=1,
           on_bad_row=lambda *r: reported.append(r)), 1)
  assert batch["_mask"].tolist() == [True] * 5 + [False] + [True] * 2
  ((row, where, reason),) = reported
  assert (row, where) == (5, f"{tmp_path}/rows.jsonl:6")
  assert "cut short" in reason
  expected = ops[1](ops[0]({"image": images.rgb("PNG")}, None), None)["image"]
  np.testing.assert_array_equal(batch["image"][0], expected)
