"""Examples to batches: reading ahead in threads or processes, bad rows and their limit, buckets.

A batch depends on the configuration and the step alone, whatever the threads and processes that
read its examples.
"""

from __future__ import annotations

import bisect
import collections
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.data import examples
from paligemma_jax.data import order
from paligemma_jax.data import reading
from paligemma_jax.data import text_encoding
from paligemma_jax.data import tokenizer as tokenizer_lib

Batch = dict[str, np.ndarray]
OnBadRow = Callable[[int, str, str], None]

_NUM_SHOWN = 5  # Bad rows listed in the error that ends a run.


class TrainLoader:
  """The batches of a training run, from any step on.

  Args:
    rows, ops, tokenizer: as in `examples.ExampleMaker`.
    batch_size: rows of the global batch; divisible by `process_count`.
    text_len: L; arrays are one longer, see `text_encoding`.
    overflow: what to do with text that does not fit, see `text_encoding`.
    buckets: text lengths to cut a batch down to, the smallest that holds all its rows; () is off.
      Several processes find lengths of their own: see `lengthened`.
    seed: of the order and of random ops.
    shuffle: False is the order of the source.
    bad_rows: how many different rows may be rejected; one more ends the run.
    on_bad_row: called once for each rejected row with (row, where, reason), in the order of the
      batches, before the batch that holds the row is handed out.
    process_index, process_count: this process gets its contiguous share of each global batch.
    known_bad: rows that were reported before a restart: they count, but are not reported again.
    how: the fields of `reading.Options`.

  Attributes:
    counts: of the yielded batches: 'rows', 'rejected', 'dropped', 'truncated', and the notes of ops
      ('exif_rotated', 'alpha_dropped', …).
  """

  def __init__(
    self,
    rows: Any,
    ops: Sequence[Any],
    tokenizer: tokenizer_lib.Tokenizer,
    *,
    batch_size: int,
    text_len: int,
    overflow: str,
    buckets: Sequence[int] = (),
    seed: int,
    shuffle: bool,
    bad_rows: int = 0,
    on_bad_row: OnBadRow | None = None,
    process_index: int = 0,
    process_count: int = 1,
    known_bad: Sequence[int] = (),
    **how: Any,
  ):
    make_example = examples.ExampleMaker(
      rows, tuple(ops), tokenizer, "train", text_len, overflow, seed
    )
    share = _share(batch_size, process_index, process_count)
    rows_of_step = functools.partial(
      order.rows_of_step,
      num_rows=len(rows),
      batch_size=batch_size,
      seed=seed,
      shuffle=shuffle,
      mix=rows.mix() if isinstance(rows, protocols.CanMix) else (),
    )
    self._read = functools.partial(reading.read, make_example, rows_of_step, share)
    self._collate = _Collate(make_example, buckets)
    self._policy = _BadRowPolicy(bad_rows, on_bad_row, set(known_bad))
    self._how = reading.Options(**how)
    self.counts = self._policy.counts

  def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
    """The batches of steps `start_step`, `start_step + 1`, … without end. Close it when done.

    Yields:
      image uint8[b, R, R, 3] or [b, F, R, R, 3], text int32[b, L+1], mask_ar int32[b, L+1],
      mask_loss float32[b, L+1], _mask bool[b], _row int64[b], where b is this process's share of
      the batch. A rejected or dropped row keeps its place: _mask False, image and masks 0.

    Raises:
      DataError: more bad rows than `bad_rows`.
      StallError: nothing came for `stall_secs`, or a worker process died.
      ConfigError: an op is broken or the ops do not make what a batch needs.
    """
    for group in self._read(start_step, None, self._how):
      self._policy.take(group)
      yield self._collate(group)


def eval_batches(
  rows: Any,
  ops: Sequence[Any],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  encoding: str,
  batch_size: int,
  text_len: int,
  keep: Sequence[str] = (),
  limit: int = 0,
  overflow: str = "error",
  buckets: Sequence[int] = (),
  seed: int = 0,
  bad_rows: int = 0,
  on_bad_row: OnBadRow | None = None,
  process_index: int = 0,
  process_count: int = 1,
  **how: Any,
) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
  """Each row once, in the order of the source; the last batch is filled up with _mask False.

  Every process yields the same number of batches. Arguments are those of `TrainLoader`, and:

  Args:
    buckets: as above; processes may have batches of other lengths, see `lengthened`.
    encoding: 'train' (text int32[b, L+1], mask_loss) or 'decode' (text int32[b, L], mask_input).
    keep: columns for the evaluator.
    limit: only the first so many rows; 0 is all.

  Yields:
    (batch, kept): `kept` has one dict for each example of this process's share with _mask True, in
    order: the columns of `keep`, `_row`, and `_truncated` where the text was cut.
  """
  num_rows = min(len(rows), limit) if limit else len(rows)
  make_example = examples.ExampleMaker(
    rows, tuple(ops), tokenizer, encoding, text_len, overflow, seed, tuple(keep)
  )
  share = _share(batch_size, process_index, process_count)
  rows_of_step = functools.partial(order.rows_in_turn, num_rows=num_rows, batch_size=batch_size)
  collate = _Collate(make_example, buckets)
  policy = _BadRowPolicy(bad_rows, on_bad_row, set(), report_dropped=True)
  num_steps = -(-num_rows // batch_size)
  options = reading.Options(**how)
  for group in reading.read(make_example, rows_of_step, share, 0, num_steps, options):
    policy.take(group)
    kept = []
    for example in group:
      if example.arrays is not None:
        cut = {"_truncated": True} if "truncated" in example.notes else {}
        kept.append({**example.kept, "_row": example.row, **cut})
    yield collate(group), kept


def lengthened(batch: Batch, length: int) -> Batch:
  """The batch with its texts padded to `length`, L+1, which is at least their own."""
  out = dict(batch)
  for name, (value, _) in text_encoding.PADDING.items():
    if name in batch and (missing := length - batch[name].shape[1]):
      out[name] = np.pad(batch[name], ((0, 0), (0, missing)), constant_values=value)
  return out


def _share(batch_size: int, process_index: int, process_count: int) -> range:
  """The places of the global batch that this process fills."""
  assert batch_size % process_count == 0, (batch_size, process_count)
  size = batch_size // process_count
  return range(process_index * size, (process_index + 1) * size)


class _BadRowPolicy:
  """Counts rows, reports each bad row once, ends the run when there are more than allowed."""

  def __init__(
    self, budget: int, on_bad_row: OnBadRow | None, known: set[int], report_dropped: bool = False
  ):
    self.counts: collections.Counter[str] = collections.Counter()
    self._budget = budget
    self._on_bad_row = on_bad_row
    self._known = known
    self._report_dropped = report_dropped
    self._shown: list[str] = []

  def take(self, group: Sequence[examples.Example]) -> None:
    for example in group:
      if example.failed:
        raise errors.ConfigError(example.failed)
      if example.row < 0:
        continue
      self.counts["rows"] += 1
      self.counts.update(example.notes)
      if example.dropped:
        self.counts["dropped"] += 1
        if self._report_dropped and self._on_bad_row:
          self._on_bad_row(example.row, example.where, "the text is too long: not evaluated")
      if not example.rejected:
        continue
      self.counts["rejected"] += 1
      if example.row in self._known:
        continue
      self._known.add(example.row)
      if self._on_bad_row:
        self._on_bad_row(example.row, example.where, example.rejected)
      self._shown.append(f"{example.where}: {example.rejected}")
      if len(self._known) > self._budget:
        more = len(self._known) - _NUM_SHOWN
        listed = [*self._shown[-_NUM_SHOWN:], *([f"and {more} more"] if more > 0 else [])]
        raise errors.DataError(
          f"{len(self._known)} bad rows, bad_rows allows {self._budget}; mend or remove them, or"
          " raise bad_rows to go on without them:\n  " + "\n  ".join(listed)
        )


class _Collate:
  """Examples to the arrays of a batch; every row has the same image shape."""

  def __init__(self, make_example: examples.ExampleMaker, buckets: Sequence[int]):
    self._make_example = make_example
    below = {b for b in buckets if 0 < b < make_example.text_len}
    self._lengths = sorted({*below, make_example.text_len})
    self._image_shape: tuple[int, ...] = ()

  def __call__(self, group: Sequence[examples.Example]) -> Batch:
    used = [(i, e.arrays) for i, e in enumerate(group) if e.arrays is not None]
    for i, arrays in used:
      self._image_shape = self._image_shape or arrays["image"].shape
      if arrays["image"].shape != self._image_shape:
        raise errors.ConfigError(
          f"{group[i].where}: after the ops 'image' is uint8{list(arrays['image'].shape)}, that of"
          f" rows before it uint8{list(self._image_shape)}; the ops must give every row the same"
          " shape."
        )
    if not self._image_shape:
      self._image_shape = self._probe()
    names, extra = text_encoding.arrays_of(self._make_example.encoding)
    most = max((text_encoding.num_tokens(arrays) for _, arrays in used), default=0)
    length = self._lengths[bisect.bisect_left(self._lengths, max(most - extra, 1))] + extra
    batch = {"image": np.zeros((len(group), *self._image_shape), np.uint8)}
    for name in names:
      batch[name] = np.zeros((len(group), length), text_encoding.PADDING[name][1])
    for i, arrays in used:
      batch["image"][i] = arrays["image"]
      for name in names:
        batch[name][i] = arrays[name][:length]
    batch["_mask"] = np.array([example.arrays is not None for example in group], bool)
    batch["_row"] = np.array([example.row for example in group], np.int64)
    return batch

  def _probe(self) -> tuple[int, ...]:
    """The image shape of the first usable row, for a batch in which there is none."""
    num_dropped = 0
    for row in range(len(self._make_example.rows)):
      example = self._make_example(0, row)
      if example.arrays is not None:
        return example.arrays["image"].shape
      num_dropped += example.dropped
    raise errors.DataError(
      f"No row of the source can be used: of {len(self._make_example.rows)} rows {num_dropped} are"
      f" longer than text_len={self._make_example.text_len} and dropped (overflow), the"
      " others are bad."
    )
