"""Which rows make up a step, the same on every host and restart; and fingerprints of the rows.

The rows of all epochs stand in one line; step t takes places t·B to (t+1)·B - 1, so a batch may
hold the end of one epoch and the start of the next, and no row is left out.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL
from PIL import features

from paligemma_jax.config import load
from paligemma_jax.core import prng
from paligemma_jax.core import protocols
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.data import examples
from paligemma_jax.data import tokenizer as tokenizer_lib

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
  """The (epoch, row) at each place of the global batch of step `step` (the first step is 0).

  Every epoch visits each row exactly once, in its own order when `shuffle`, else in file order.
  The list is shared between callers: do not change it.

  Args:
    mix: of a weighted mixture, (rows, rows in an epoch) of each part; both sum to `num_rows`. The
      epochs are then each part's own, through all of whose rows it goes before it begins anew.
  """
  places = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
  epochs, rows = np.divmod(places, num_rows)
  if shuffle:
    rows = prng.permute(rows, num_rows, prng.key(_ORDER, seed, epochs))
  if mix:
    epochs, rows = _mixed(epochs, rows, mix, seed, shuffle)
  return list(zip(epochs.tolist(), rows.tolist(), strict=True))


@functools.lru_cache(maxsize=64)
def rows_in_turn(step: int, *, num_rows: int, batch_size: int) -> list[tuple[int, int]]:
  """As `rows_of_step` when each row is read once, in order; places past the last have row -1."""
  rows = range(step * batch_size, (step + 1) * batch_size)
  return [(0, row if row < num_rows else -1) for row in rows]


def _mixed(rounds, picks, mix, seed, shuffle):
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
  """The random generator of the row ops for this row in this epoch."""
  return prng.generator(_ROW, seed, epoch, row)


MAX_DIGESTS = 1 << 20  # 2 MB; of more rows each digest is of several that follow each other.


def fingerprint(
  rows: Any, ops: Sequence[Any], tokenizer: tokenizer_lib.Tokenizer, **settings: Any
) -> dict[str, str]:
  """{what: short text}; equal texts give equal batches, image files aside, which are not read.

  `settings` is all else that decides, as batch_size, seed, text_len.
  """
  turbo = features.version_feature("libjpeg_turbo")
  jpeg = f"turbo {turbo}" if turbo else features.version_codec("jpg")
  parts = {
    "rows": rows.fingerprint(),
    "ops": json.dumps(load.nameless(spec_lib.to_json(tuple(ops))), sort_keys=True),
    "tokenizer": tokenizer.fingerprint,
    "image decoder": f"Pillow {PIL.__version__}, jpeg {jpeg}",
  }
  return parts | {name: json.dumps(spec_lib.to_json(value)) for name, value in settings.items()}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
  """{what: sentences on how it differs from `before`}; only what differs."""
  found: dict[str, list[str]] = {}
  for name in sorted({*before, *now}):
    old, new = (side.get(name, "(absent)") for side in (before, now))
    if name == "ops":  # The specs are compared field by field.
      with contextlib.suppress(strict_json.Malformed):
        old, new = strict_json.parse(old), strict_json.parse(new)
    if listed := load.between(old, new, name):
      found[name] = [one.text for one in listed]
  return found


def digests(rows: protocols.Rows) -> np.ndarray | None:
  """uint16[n], n at most MAX_DIGESTS: of each row, or of as many as `rows_each` says.

  None for sources that do not read all of their rows when they are opened.
  """
  each = rows.digests() if isinstance(rows, protocols.CanDigest) else None
  if each is None:
    return None
  each, size = np.asarray(each, np.uint16), rows_each(len(rows))
  if size == 1:
    return each
  padded = np.zeros(-(-len(each) // size) * size, np.uint64)
  padded[: len(each)] = each
  factors = np.cumprod(np.full(size, 0x9E3779B97F4A7C15, np.uint64))
  sums = (padded.reshape(-1, size) * factors).sum(axis=1, dtype=np.uint64)
  return (sums >> np.uint64(48)).astype(np.uint16)


def rows_each(num_rows: int) -> int:
  """How many rows one digest covers."""
  return max(-(-num_rows // MAX_DIGESTS), 1)


def row_changes(before: np.ndarray, now: np.ndarray, num_before: int, rows: Any) -> str:
  """Which rows differ by their digests, as '2 rows were taken out: row 4 (train.jsonl:5) …'."""
  size, num = rows_each(num_before), len(rows)
  if size != rows_each(num):
    return f"there were {num_before} rows, there are {num}"
  common = min(len(before), len(now))
  different = np.flatnonzero(before[:common] != now[:common])
  first = int(different[0]) if len(different) else common
  if first * size >= num:
    return f"{_were(num_before - num)} taken out at the end: there were {num_before}"
  name = examples.name_of(rows, first * size)
  if size > 1:
    return (
      f"there were {num_before} rows, there are {num}; the first that differ are among {size} from"
      f" {name} on"
    )
  more = num - num_before
  if more > 0 and first == num_before:
    return f"{_were(more)} added at the end, from {name} on"
  if more > 0 and np.array_equal(before[first:], now[first + more :]):
    return f"{_were(more)} added, from {name} on"
  if more < 0 and np.array_equal(before[first - more :], now[first:]):
    return f"{_were(-more)} taken out, where now {name} stands"
  if not more and np.array_equal(np.sort(before), np.sort(now)):
    return f"the rows stand in another order, from {name} on"
  counted = f"; there were {num_before} rows, there are {num}" if more else ""
  others = 0 if more else len(different) - 1
  if others:
    return f"{name} and {others} other{'s' if others > 1 else ''} differ{counted}"
  return f"{name} differs{counted}"


def _were(num: int) -> str:
  return f"{num} rows were" if num > 1 else "1 row was"
