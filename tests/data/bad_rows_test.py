"""A bad row moves no other; it is reported once, and too many end the run."""

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.data import loading
from tests.data import rows_and_ops
from tests.hostile import images


@pytest.fixture(scope="module")
def tokenizer():
  return loading.read_tokenizer()


def test_a_rejected_row_keeps_its_slot_and_moves_no_other(tokenizer):
  good = loading.take(loading.make(tokenizer), 5)
  reported = []
  bad_loader = loading.make(
    tokenizer,
    rows_and_ops.Rows(20, bad=(4, 11)),
    bad_rows=2,
    on_bad_row=lambda *report: reported.append(report),
  )
  found = loading.take(bad_loader, 5)
  for one, other in zip(found, good, strict=True):
    np.testing.assert_array_equal(one["_row"], other["_row"])
    np.testing.assert_array_equal(one["_mask"], ~np.isin(one["_row"], (4, 11)))
    for name in ("image", "text", "mask_loss"):
      np.testing.assert_array_equal(one[name][one["_mask"]], other[name][one["_mask"]])
      assert not one[name][~one["_mask"]].any()
  assert sorted(reported) == [
    (4, "rows.txt:5", "row 4 is bad."),
    (11, "rows.txt:12", "row 11 is bad."),
  ]
  assert bad_loader.counts["rejected"] == 4
  assert bad_loader.counts["rows"] == 40


def test_the_first_bad_row_ends_the_run_unless_a_budget_allows_it(tokenizer):
  rows = rows_and_ops.Rows(20, bad=(4, 11))
  reported = []
  with pytest.raises(errors.DataError, match=r"1 bad rows, bad_rows allows 0.*\n  rows.txt:"):
    loading.take(loading.make(tokenizer, rows, on_bad_row=lambda *r: reported.append(r)), 5)
  assert len(reported) == 1
  with pytest.raises(errors.DataError, match=r"2 bad rows, bad_rows allows 1"):
    loading.take(loading.make(tokenizer, rows, bad_rows=1), 5)


def test_bad_rows_that_were_reported_before_a_restart_are_not_reported_again(tokenizer):
  rows = rows_and_ops.Rows(20, bad=(4, 11))
  reported = []
  options = {"bad_rows": 2, "on_bad_row": lambda *r: reported.append(r[0])}
  loading.take(loading.make(tokenizer, rows, known_bad=(4,), **options), 5)
  assert reported == [11]
  with pytest.raises(errors.DataError, match="2 bad rows, bad_rows allows 1"):
    loading.take(loading.make(tokenizer, rows, known_bad=(4,), bad_rows=1), 5)


def test_a_batch_of_bad_rows_alone_has_the_shape_of_the_others(tokenizer):
  rows = rows_and_ops.Rows(8, bad=range(4))
  batches = loading.take(loading.make(tokenizer, rows, batch_size=4, shuffle=False, bad_rows=4), 2)
  assert not batches[0]["_mask"].any()
  assert batches[0]["image"].shape == batches[1]["image"].shape
  with pytest.raises(errors.DataError, match="No row of the source can be used"):
    loading.take(loading.make(tokenizer, rows_and_ops.Rows(4, bad=range(4)), bad_rows=9), 1)


def test_long_texts_are_errors_cut_or_dropped_and_counted(tokenizer):
  with pytest.raises(errors.DataError, match=r"rows.txt:\d+: The text has"):
    loading.take(loading.make(tokenizer, text_len=8), 5)
  cutting = loading.make(tokenizer, text_len=8, overflow="truncate")
  for batch in loading.take(cutting, 5):
    assert ((batch["text"] == tokenizer.eos_id).sum(axis=1) == 1).all()
  dropping = loading.make(tokenizer, text_len=8, overflow="drop")
  masks = [b["_mask"] for b in loading.take(dropping, 5)]
  assert 0 < dropping.counts["dropped"] == sum((~m).sum() for m in masks)
  assert cutting.counts["truncated"] == dropping.counts["dropped"]
  assert not dropping.counts["rejected"]


def test_what_ops_remark_is_counted(tokenizer):
  ops = (*loading.OPS, rows_and_ops.Set("_notes", ("odd",), at=(1, 2)))
  counting = loading.make(tokenizer, ops=ops)
  loading.take(counting, 5)
  assert counting.counts["odd"] == 4


def test_markers_and_line_breaks_in_texts_are_counted(tokenizer):
  ops = (
    *loading.OPS,
    rows_and_ops.Set("prefix", "<image>caption en", at=(1, 2)),
    rows_and_ops.Set("suffix", "a cat\n", at=(2, 3, 4)),
    rows_and_ops.Set("suffix", (("a <eos>", True), ("b", False)), at=(5,)),
  )
  counting = loading.make(tokenizer, ops=ops)
  loading.take(counting, 5)  # 40 slots, so that each row comes twice.
  assert (counting.counts["marker_in_text"], counting.counts["newline_at_end"]) == (6, 6)


def test_a_chat_that_no_op_reads_is_named(tokenizer):
  rows = [{"messages": [{"role": "user"}], "image": np.zeros((4, 4, 3), np.uint8)}] * 20
  with pytest.raises(errors.ConfigError, match=r"no 'prefix'.*'messages' is of a chat format"):
    loading.take(loading.make(tokenizer, rows, ops=()), 1)


@pytest.mark.parametrize(
  "op, reason",
  [
    (rows_and_ops.Broken(), r"rows.txt:\d+: op .*Broken\(\) failed: KeyError: 'nothing'"),
    (rows_and_ops.Set("image", 3), "'image' is int; expected uint8"),
    (rows_and_ops.Paint(side=6), ""),
  ],
)
def test_a_broken_op_ends_the_run_whatever_the_budget(op, reason, tokenizer):
  ops = (*loading.OPS, op)
  if not reason:  # Images of two sizes.
    ops = (*loading.OPS, _Resizing())
    reason = r"uint8\[6, 6, 3\], that of rows before it uint8\[4, 4, 3\]|same shape"
  with pytest.raises(errors.ConfigError, match=reason):
    loading.take(loading.make(tokenizer, ops=ops, bad_rows=99), 5)


class _Resizing:
  """Gives one row a larger image."""

  def __call__(self, row, rng):
    return rows_and_ops.Paint(side=6)(row, rng) if row["i"] == 5 else row


def test_a_missing_column_after_the_ops_is_named(tokenizer):
  with pytest.raises(errors.ConfigError, match="no 'image' after the ops"):
    loading.take(loading.make(tokenizer, ops=()), 1)
  with pytest.raises(errors.DataError, match="column 'suffix': expected text, found int"):
    loading.take(loading.make(tokenizer, ops=(*loading.OPS, rows_and_ops.Set("suffix", 3))), 1)


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
  (batch,) = loading.take(
    loading.make(
      tokenizer, rows, ops, shuffle=False, bad_rows=1, on_bad_row=lambda *r: reported.append(r)
    ),
    1,
  )
  assert batch["_mask"].tolist() == [True] * 5 + [False] + [True] * 2
  ((row, where, reason),) = reported
  assert (row, where) == (5, f"{tmp_path}/rows.jsonl:6")
  assert "cut short" in reason
  expected = ops[1](ops[0]({"image": images.rgb("PNG")}, None), None)["image"]
  np.testing.assert_array_equal(batch["image"][0], expected)


def test_every_kind_of_hostile_picture_among_good_ones_is_decided_and_moves_none(
  tmp_path, tokenizer
):
  good = images.rgb("PNG")
  kinds = list(images.MAKERS.items())
  lines, rejected = [], set()
  for i, (_, (make, decision, _)) in enumerate(kinds):
    for name, data in ((f"good{i}.png", good), (f"odd{i}", make())):
      if decision == images.REJECT and name.startswith("odd"):
        rejected.add(len(lines))
      (tmp_path / name).write_bytes(data)
      lines.append(f'{{"image": "{name}", "question": "q{i}", "answers": ["a"]}}')
  while len(lines) % 8:
    lines.append(lines[0])
  (tmp_path / "rows.jsonl").write_text("\n".join(lines))
  rows = sources.Jsonl(str(tmp_path / "rows.jsonl"), columns=("image", "question")).open()
  ops = (pp.Decode(), pp.Resize(14), pp.Format("answer en {question}"), pp.Choice("answers"))
  reported = []
  batches = loading.take(
      loading.make(tokenizer, rows, ops, shuffle=False, batch_size=8, bad_rows=len(rejected),
           on_bad_row=lambda *r: reported.append(r[0])), len(lines) // 8)  # fmt: skip
  assert set(reported) == rejected
  expected = ops[1](ops[0]({"image": good}, None), None)["image"]
  for batch in batches:
    for row, kept, image in zip(batch["_row"], batch["_mask"], batch["image"], strict=True):
      assert kept == (row not in rejected)
      if lines[row].startswith('{"image": "good'):
        np.testing.assert_array_equal(image, expected)
