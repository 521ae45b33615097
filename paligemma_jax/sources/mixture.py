"""Several sources as one, one as two (training and validation), and rows that a config lists."""

from __future__ import annotations

import array
import bisect
import fractions
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.config import load
from paligemma_jax.core import errors
from paligemma_jax.core import prng
from paligemma_jax.core import protocols
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files


@spec_lib.spec
class Part:
  """One source of a `Mixture`.

  Attributes:
    source: its rows; possibly another mixture.
    pp: row ops for these rows alone, applied before the ops of the mixture.
    weight: its sampling weight relative to the other parts; 0 for all parts weights each by its
      number of rows.
  """

  source: Any
  pp: tuple = ()
  weight: float = 0.0

  def __post_init__(self):
    if not (spec_lib.is_spec(self.source) and isinstance(self.source, protocols.Source)):
      raise errors.ConfigError(f"The source of a part is {self.source!r}, which is no source.")
    if not math.isfinite(self.weight) or self.weight < 0:
      raise errors.ConfigError(f"The weight of a part is {self.weight!r}: expected 0 or more.")


@spec_lib.spec
class Mixture:
  """The rows of several sources.

  An epoch has as many rows as all parts together. Without weights it holds each row once. With
  weights every epoch holds the same number of rows of a part, which continues where it was in the
  previous epoch: all of its rows are read once before any is repeated. `_epoch`, by which ops
  choose among several answers, then counts the passes over the part. `data.order` computes the
  order from the seed and the step alone.

  Evaluators read each row once, one part after the other.

  Attributes:
    parts: a `Part` for each source.
  """

  parts: tuple

  def __post_init__(self):
    if not self.parts:
      raise errors.ConfigError("A Mixture needs at least one Part.")
    for i, part in enumerate(self.parts):
      if not isinstance(part, Part):
        raise errors.ConfigError(
          f"parts[{i}] of a Mixture is {part!r}; write sources.Part(source, pp, weight)."
        )
    unweighted = [i for i, part in enumerate(self.parts) if not part.weight]
    if 0 < len(unweighted) < len(self.parts):
      raise errors.ConfigError(
        f"Some parts of a Mixture have a weight, parts[{unweighted[0]}] has none: give one to"
        " each, or to none."
      )

  def open(self) -> MixtureRows:
    """ConfigError for a part that cannot be opened or weighs too little, DataError if empty."""
    return MixtureRows(self.parts)

  def makes(self) -> tuple[str, ...]:
    """The columns that the rows of every part have; () when one part's are not known."""
    made: list[set[str]] = []
    for part in self.parts:
      columns = part.source.makes()
      if not columns:
        return ()
      made.append({*columns, *(name for op in part.pp for name in op.makes())})
    return tuple(sorted(set.intersection(*made)))


class MixtureRows:
  """The rows of a `Mixture`: those of its parts, one part after the other."""

  def __init__(self, parts: Sequence[Part]):
    self._rows: list[Any] = []
    self._ops: list[tuple[Any, ...]] = []
    weights = []
    for i, part in enumerate(parts):
      rows = part.source.open()
      if not len(rows):
        raise errors.DataError(f"Part {i} of the mixture has no rows: {part.source}.")
      weight = fractions.Fraction(part.weight or len(rows))
      nested = rows._parts() if isinstance(rows, MixtureRows) else [(rows, (), 1)]
      for inner_rows, inner_ops, share in nested:
        self._rows.append(inner_rows)
        self._ops.append((*inner_ops, *part.pp))
        weights.append(weight * share)
    self._sizes = tuple(len(rows) for rows in self._rows)
    self._starts = [0, *np.cumsum(self._sizes).tolist()]
    self._quotas = _apportioned(len(self), weights)
    for size, quota, rows in zip(self._sizes, self._quotas, self._rows, strict=True):
      if not quota:
        raise errors.ConfigError(
          f"The weight of a part of {size} rows ({_where(rows, 0)}) is so small that it has none"
          f" of the {len(self)} rows of an epoch; raise it or leave the part out."
        )

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, i: int) -> dict[str, Any]:
    rows, _, inner = self._find(i)
    return rows[inner]

  def ops(self, i: int) -> tuple[Any, ...]:
    """The row ops of the row's part."""
    return self._find(i)[1]

  def where(self, i: int) -> str:
    rows, _, inner = self._find(i)
    return _where(rows, inner)

  def mix(self) -> tuple[tuple[int, int], ...]:
    """(rows, rows in an epoch) of each part; () when the two are equal in all."""
    both = tuple(zip(self._sizes, self._quotas, strict=True))
    return both if self._sizes != self._quotas else ()

  def fingerprint(self) -> str:
    """Of the parts' content, ops and numbers of rows in an epoch."""
    ops = json.dumps(load.nameless(spec_lib.to_json(tuple(self._ops))), sort_keys=True)
    each = " + ".join(
      f"{quota} of {rows.fingerprint()}"
      for rows, quota in zip(self._rows, self._quotas, strict=True)
    )
    return f"mixture:{zlib.crc32(ops.encode()):08x}: {each}"

  def digests(self) -> np.ndarray | None:
    """uint16[rows], those of the parts; None when a part has none."""
    each = [r.digests() if isinstance(r, protocols.CanDigest) else None for r in self._rows]
    return None if any(d is None for d in each) else np.concatenate([np.asarray(d) for d in each])

  def _find(self, i: int) -> tuple[Any, tuple[Any, ...], int]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    part = bisect.bisect_right(self._starts, i) - 1
    return self._rows[part], self._ops[part], i - self._starts[part]

  def _parts(self) -> list[tuple[Any, tuple[Any, ...], fractions.Fraction]]:
    """The rows of each part, their ops, and their fraction of an epoch."""
    of_epoch = [fractions.Fraction(quota, len(self)) for quota in self._quotas]
    return list(zip(self._rows, self._ops, of_epoch, strict=True))


def _apportioned(num: int, weights: Sequence[fractions.Fraction]) -> tuple[int, ...]:
  """`num` divided into whole numbers by weight, by largest remainder, the first of a tie."""
  exact = [num * weight / sum(weights) for weight in weights]
  whole = [math.floor(value) for value in exact]
  by_remainder = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
  for i in by_remainder[: num - sum(whole)]:
    whole[i] += 1
  return tuple(whole)


def _where(rows: Any, i: int) -> str:
  return rows.where(i) if hasattr(rows, "where") else f"row {i} of {type(rows).__name__}"


_SPLIT = 0x73706C6974  # "split", the purpose of its random numbers.
_TRAIN, _VAL = "train", "val"


@spec_lib.spec
class Split:
  """The rows for training, or those for validation, of a source that has both in one.

  One row of each `every` that follow each other, chosen at random, is for validation: so both have
  rows from everywhere in a sorted file, and rows that are appended change no other row's part.

  Attributes:
    source: all rows.
    part: 'train' or 'val'.
    every: rows of which one is for validation.
    seed: of the choice.
  """

  source: Any
  part: str
  every: int = 10
  seed: int = 0

  def __post_init__(self):
    if not (spec_lib.is_spec(self.source) and isinstance(self.source, protocols.Source)):
      raise errors.ConfigError(f"The source of a Split is {self.source!r}, which is no source.")
    errors.pick(dict.fromkeys((_TRAIN, _VAL)), self.part, "Split.part")
    if self.every < 2:
      raise errors.ConfigError(f"Split.every is {self.every!r}; expected 2 or more.")

  def open(self) -> SplitRows:
    """As the source's; DataError where validation would have no rows."""
    return SplitRows(self)

  def makes(self) -> tuple[str, ...]:
    return tuple(self.source.makes())


class SplitRows:
  """The rows of a `Split`, which keep their names in messages."""

  def __init__(self, spec: Split):
    self._spec, self._rows = spec, spec.source.open()
    places = np.arange(len(self._rows))
    blocks = places // spec.every
    chosen = prng.key(_SPLIT, spec.seed, blocks) % np.uint64(spec.every)
    is_val = chosen == (places % spec.every).astype(np.uint64)
    if not is_val.any():
      raise errors.DataError(
        f"{len(places)} rows are too few to take one of each {spec.every} for validation; lower"
        " Split.every."
      )
    self._places = np.flatnonzero(is_val == (spec.part == _VAL))

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    return self._rows[int(self._places[i])]

  def ops(self, i: int) -> tuple[Any, ...]:
    """The row ops of the row's part of a mixture."""
    return protocols.own_ops(self._rows, int(self._places[i]))

  def where(self, i: int) -> str:
    return _where(self._rows, int(self._places[i]))

  def fingerprint(self) -> str:
    """Of the source's content and the choice."""
    spec = self._spec
    return f"{spec.part} of {spec.every} (seed {spec.seed}): {self._rows.fingerprint()}"

  def digests(self) -> np.ndarray | None:
    """uint16[rows], those of the source; None when it has none."""
    found = self._rows.digests() if isinstance(self._rows, protocols.CanDigest) else None
    return None if found is None else np.asarray(found)[self._places]


@spec_lib.spec
class InMemory:
  """These rows, in order.

  Attributes:
    rows: one dict of plain values for each row.
  """

  rows: tuple

  def open(self) -> InMemoryRows:
    return InMemoryRows(self.rows)

  def makes(self) -> tuple[str, ...]:
    """The columns that all rows have."""
    names = [set(row) for row in self.rows]
    return tuple(sorted(set.intersection(*names))) if names else ()


class InMemoryRows:
  """The rows of an `InMemory` source."""

  def __init__(self, rows: tuple):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return dict(self._rows[i])

  def digests(self) -> array.array:
    """uint16[rows], of the content."""
    texts = (json.dumps(spec_lib.to_json(row), sort_keys=True) for row in self._rows)
    return files.row_digests(text.encode() for text in texts)

  def fingerprint(self) -> str:
    text = json.dumps(spec_lib.to_json(self._rows), sort_keys=True)
    return f"memory:{len(self._rows)}:{zlib.crc32(text.encode()):08x}"
