"""Which rows make up a step: a pure function, the same on every host, worker and restart.

The rows of all epochs stand in one line; step t takes slots t·B to (t+1)·B - 1, so a batch may hold
the end of one epoch and the start of the next and no row is ever left out.
"""

from __future__ import annotations

import functools

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import prng

choice_index = prng.choice_index

_ORDER = 0x6F72646572  # "order", "row", "part": keep the draws of the purposes apart.
_ROW = 0x726F77
_PART = 0x70617274


@functools.lru_cache(maxsize=64)
def rows_of_step(
  step: int,
  *,
  num_rows: int,
  batch_size: int,
  seed: int,
  shuffle: bool,
  mix: tuple[tuple[int, int], ...] = (),
) -> list[tuple[int, int]]:
  """The (epoch, row) of each slot of the global batch of step `step` (the first step is 0).

  Every epoch visits each row exactly once, in its own order when `shuffle`, else in file order.
  The list is shared between callers: do not change it.

  Args:
    mix: of a weighted mixture, (rows, rows in an epoch) of each part; both sum to `num_rows`. The
      epochs are then each part's own, through all of whose rows it goes before it begins anew.

  Raises:
    DataError: there are no rows.
  """
  if num_rows < 1:
    raise errors.DataError("The training source has no rows.")
  slots = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
  epochs, rows = np.divmod(slots, num_rows)
  if shuffle:
    rows = prng.permute(rows, num_rows, prng.key(_ORDER, seed, epochs))
  if mix:
    epochs, rows = _mixed(epochs, rows, mix, seed, shuffle)
  return list(zip(epochs.tolist(), rows.tolist(), strict=True))


@functools.lru_cache(maxsize=64)
def rows_in_turn(step: int, *, num_rows: int, batch_size: int) -> list[tuple[int, int]]:
  """The (epoch, row) of each slot of step `step` when each row is read once, in order.

  The epoch is 0; slots past the last row have row -1. The list is shared between callers.
  """
  rows = range(step * batch_size, (step + 1) * batch_size)
  return [(0, row if row < num_rows else -1) for row in rows]


def _mixed(
  rounds: np.ndarray,
  picks: np.ndarray,
  mix: tuple[tuple[int, int], ...],
  seed: int,
  shuffle: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """(epochs of the parts, rows) for places 0..num_rows-1 of the mixture's epochs `rounds`.

  Of the places in an epoch the first belong to the first part, as many as it has rows in an epoch,
  and so on. The rows of all epochs of a part stand in one line, too.
  """
  sizes, quotas = np.array(mix, np.int64).T
  ends = np.cumsum(quotas)
  parts = np.searchsorted(ends, picks, side="right")
  positions = rounds * quotas[parts] + picks - (ends - quotas)[parts]
  epochs, rows = np.divmod(positions, sizes[parts])
  for part in np.unique(parts) if shuffle else ():
    of_part = parts == part
    keys = prng.key(_PART, seed, int(part), epochs[of_part])
    rows[of_part] = prng.permute(rows[of_part], int(sizes[part]), keys)
  return epochs, rows + (np.cumsum(sizes) - sizes)[parts]


def row_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
  """The generator that the row ops draw from when they see this row in this epoch."""
  return prng.generator(_ROW, seed, epoch, row)
