"""Which rows make up a step: a pure function, the same on every host, worker and restart.

The rows of all epochs stand in one line; step t takes slots t·B to (t+1)·B - 1, so a batch may hold
the end of one epoch and the start of the next and no row is ever left out.
"""

from __future__ import annotations

import functools

import numpy as np

from paligemma_jax.core import draws
from paligemma_jax.core import errors

choice_index = draws.choice_index

_ORDER = 0x6F72646572  # "order" and "row": keep the draws of the two purposes apart.
_ROW = 0x726F77


@functools.lru_cache(maxsize=64)
def rows_of_step(
    step: int, *, num_rows: int, batch_size: int, seed: int, shuffle: bool
) -> list[tuple[int, int]]:
  """The (epoch, row) of each slot of the global batch of step `step` (the first step is 0).

  Every epoch visits each row exactly once, in its own order when `shuffle`, else in file order.
  The list is shared between callers: do not change it.

  Raises:
    DataError: there are no rows.
  """
  if num_rows < 1:
    raise errors.DataError("The training source has no rows.")
  slots = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
  epochs, rows = np.divmod(slots, num_rows)
  if shuffle:
    rows = draws.permute(rows, num_rows, draws.key(_ORDER, seed, epochs))
  return list(zip(epochs.tolist(), rows.tolist(), strict=True))


def row_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
  """The generator that the row ops draw from when they see this row in this epoch."""
  return draws.generator(_ROW, seed, epoch, row)
