"""Evaluation sees each row exactly once, and never the answer."""

import pytest

from paligemma_jax.core import errors
from paligemma_jax.data import loader
from tests.data import loading
from tests.data import rows_and_ops


@pytest.fixture(scope="module")
def tokenizer():
  return loading.read_tokenizer()


def evaluate(tokenizer, rows=None, **options):
  rows = rows_and_ops.Rows(10) if rows is None else rows
  defaults = {"encoding": "decode", "batch_size": 4, "text_len": 12, "keep": ("i",)}
  return list(loader.eval_batches(rows, loading.OPS, tokenizer, **{**defaults, **options}))


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


@pytest.mark.parametrize("encoding, extra", [("train", 1), ("decode", 0)])
def test_batches_are_as_long_as_the_bucket_of_their_longest_text(tokenizer, encoding, extra):
  whole = evaluate(tokenizer, encoding=encoding, text_len=40)
  cut = evaluate(tokenizer, encoding=encoding, text_len=40, buckets=(6, 12, 16, 64))
  lengths = {batch["text"].shape[1] - extra for batch, _ in cut}
  # What compiles is bounded by what was asked for: a bucket, or the full length.
  assert lengths <= {6, 12, 16, 40} and max(lengths) < 40
  for (short, kept), (full, also) in zip(cut, whole, strict=True):
    assert kept == also
    length = short["text"].shape[1]
    for name in ("text", "mask_ar"):
      assert (short[name] == full[name][:, :length]).all()
    assert not full["text"][:, length:].any()


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
  (expected,) = loading.take(loading.make(tokenizer, rows, shuffle=False), 1)
  loading.assert_same([batch], [expected])


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


@pytest.mark.parametrize("num_threads", [0, 2])
def test_rows_are_read_and_never_spelled_out(tokenizer, num_threads):
  class Rows(rows_and_ops.Rows):
    def __repr__(self):
      raise AssertionError("All images in memory would become one text.")

  (batch, _), *_ = evaluate(tokenizer, rows=Rows(10), num_threads=num_threads)
  assert batch["_mask"].all()
