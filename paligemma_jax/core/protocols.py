"""Protocols of sources, rows, row ops, evaluators and trackers; those called `Can…` are optional.

Any class declared with `@spec` that has the members of one implements it; nothing is inherited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # Configs load without NumPy.
  import pathlib

  import numpy as np


class Rows(Protocol):
  """The rows of an open source; picklable. They may have, too:

  where(row: int) -> str: the name of a row in messages, as 'train.jsonl:13'; see `where`.
  ops(row: int) -> tuple[Op, ...]: its own ops, which run before those for all rows; see `own_ops`.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, row: int) -> Mapping[str, Any]:
    """The columns of a row; DataError for one that is bad."""

  def fingerprint(self) -> str:
    """A text that changes with the content."""


@runtime_checkable
class CanMix(Protocol):
  """Rows that an epoch may hold less or more often than once."""

  def mix(self) -> tuple[tuple[int, int], ...]:
    """(rows, rows in an epoch) of consecutive parts; () when the two are the same."""


@runtime_checkable
class CanDigest(Protocol):
  """Rows with a digest each, of sources that read all rows when they are opened."""

  def digests(self) -> Sequence[int] | np.ndarray | None:
    """uint16[rows]; None when some are unknown."""


@runtime_checkable
class CanBeGenerated(Protocol):
  """Rows that may be generated, with more columns than a run reads."""

  generated: bool


@runtime_checkable
class Source(Protocol):
  """Where rows come from."""

  def open(self) -> Rows: ...

  def makes(self) -> tuple[str, ...]:
    """Names of the columns that every row has; () when they are known only from the data."""


@runtime_checkable
class CanHaveParts(Protocol):
  """A source of several sources, each with a `source` and a `pp` of its own."""

  parts: tuple[Any, ...]


@runtime_checkable
class Op(Protocol):
  """An operation on a row. One on images may have, too:

  precheck(row: Mapping) -> None: a DataError when the row is seen to be bad without decoding it.
  """

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A new row; a DataError rejects it. `rng` depends only on (seed, epoch, row).

    The row also holds _seed, _epoch and _row, and may collect notes in _notes, which are counted.
    """

  def needs(self) -> tuple[str, ...]:
    """The columns that it reads."""

  def makes(self) -> tuple[str, ...]:
    """The columns that it writes."""


@runtime_checkable
class CanSetSize(Protocol):
  """An op that makes images of one size."""

  size: int


@runtime_checkable
class CanDrawImage(Protocol):
  """An op that may change the image of a row every epoch."""

  draws_image: bool


@runtime_checkable
class Evaluator(Protocol):
  """What is evaluated, when, and how it is scored; `evals.Evaluator` has all of it but `score`."""

  name: str
  source: Source
  pp: tuple[Op, ...]
  every: str
  batch_size: int
  max_len: int
  text_len: int
  overflow: str
  limit: int
  start_limit: int
  bootstrap: int
  sampler: str
  best_of: int
  beam_size: int
  banned: tuple[str, ...]
  constraint: Any
  temperature: float | None
  top_k: int
  top_p: float
  repetition_penalty: float
  stop: str | tuple[str, ...]
  encoding: str

  def columns(self) -> tuple[str, ...]:
    """The columns of a row that `score` reads."""

  def score(self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> dict[str, float]:
    """The metrics; `outputs[i]`, an `evals.Output`, belongs to `rows[i]`."""


@runtime_checkable
class CanCompare(Protocol):
  """An evaluator that knows the score of the best answer that ignores the image."""

  def baseline(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of the best constant answer."""


@runtime_checkable
class CanWriteFiles(Protocol):
  """An evaluator that writes files of predictions."""

  def files(self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> dict[str, str]:
    """{name below `predictions/`: content}; the runner puts `-<step>` before the suffix."""


@runtime_checkable
class CanReadMasks(Protocol):
  """An evaluator that reads seg tokens."""

  codec: str


@runtime_checkable
class TrackerSpec(Protocol):
  """What `log.trackers` holds."""

  def make(self, workdir: pathlib.Path) -> Tracker:
    """Starts or resumes tracking the run in `workdir`, on host 0 only.

    A ConfigError ends the run; any other error ends the tracker alone.
    """


class Tracker(Protocol):
  """Where the metrics of a run go besides metrics.jsonl; an error ends the tracker, not the run.

  Calls do not overlap, but come from several threads. Training waits for each. A tracker may have:

  images(step, {name: (uint8[H, W, 3], caption)}): examples, at the end; at most 24, the longer side
    at most 448, the frames of a video side by side.
  text(step, {name: text}): the run's configuration, as JSON, is the text "config".
  predictions(step, {'<eval name>/predictions': table in Markdown}): the first ones of evaluations.
  fail(reason): the run ends with an error, or was asked to stop; before `close`.
  close(): called at the end of the run, after the last log. It may take a minute.
  """

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """The metrics of a step; a resumed run repeats the steps after its checkpoint."""


# `hasattr`, since these two are called for each row and `isinstance` of a protocol takes 20 µs.
def where(rows: Rows, row: int) -> str:
  """The name of a row in messages: as the rows name it ("train.jsonl:12"), else 'row 12'."""
  return rows.where(row) if hasattr(rows, "where") else f"row {row}"


def own_ops(rows: Rows, row: int) -> tuple[Op, ...]:
  """The ops of this row alone, before those for all rows: in a mixture, its part's."""
  return rows.ops(row) if hasattr(rows, "ops") else ()
