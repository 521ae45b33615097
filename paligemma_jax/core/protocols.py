"""What sources, their rows, row ops, evaluators and trackers must have, and what they may have.

Any class declared with `@spec` that has the members of one of these is one; nothing is inherited.
A protocol that begins with `Can` is of what may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # Configs load without NumPy.
  import pathlib

  import numpy as np


class Rows(Protocol):
  """The rows of an open source; picklable."""

  def __len__(self) -> int: ...

  def __getitem__(self, row: int) -> Mapping[str, Any]:
    """The columns of a row; DataError for one that is bad."""

  def fingerprint(self) -> str:
    """A text that is another one when the content is."""


class CanNameRows(Protocol):
  """Rows that messages call by a better name than 'row 12'; asked for by `where`."""

  def where(self, row: int) -> str:
    """As in 'train.jsonl:13'."""


class CanHaveOps(Protocol):
  """Rows that differ in what is to be done with them; asked for by `own_ops`."""

  def ops(self, row: int) -> tuple[Op, ...]:
    """The ops of this row, which come before those for all."""


@runtime_checkable
class CanMix(Protocol):
  """Rows of which an epoch holds some less or more often than once."""

  def mix(self) -> tuple[tuple[int, int], ...]:
    """(rows, rows in an epoch) of parts that follow each other; () when the two are the same."""


@runtime_checkable
class CanDigest(Protocol):
  """Rows that can tell which of them has changed; they were all read when they were opened."""

  def digests(self) -> Sequence[int] | np.ndarray | None:
    """uint16[rows]; None when it is not known of some."""


@runtime_checkable
class CanBeGenerated(Protocol):
  """Rows that may have been made up, with columns for every use; many of them are not read."""

  generated: bool


@runtime_checkable
class Source(Protocol):
  """Where rows come from."""

  def open(self) -> Rows: ...

  def makes(self) -> tuple[str, ...]:
    """Names of the columns that every row has; () when only the data can tell."""


@runtime_checkable
class CanHaveParts(Protocol):
  """A source of several sources, each with a `source` and a `pp` of its own."""

  parts: tuple[Any, ...]


@runtime_checkable
class Op(Protocol):
  """What is done with a row."""

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A new row; `rng` depends on (seed, epoch, row) alone. DataError rejects the row.

    The row also holds _seed, _epoch and _row, and may collect remarks in _notes, which are counted.
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
  """An op that may make another image of a row every epoch."""

  draws_image: bool


class CanGlance(Protocol):
  """An op on images that sees some bad ones without decoding them."""

  def glance(self, row: Mapping[str, Any]) -> None:
    """DataError when the row is bad as far as that is seen."""


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
  """An evaluator that knows what an answer without a look at the image would score."""

  def baseline(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of the best constant answer."""


@runtime_checkable
class CanWriteFiles(Protocol):
  """An evaluator that writes files of what was answered."""

  def files(self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> dict[str, str]:
    """{name below `predictions/`: content}; the runner puts `-<step>` before the suffix."""


@runtime_checkable
class CanReadMasks(Protocol):
  """An evaluator of seg tokens."""

  codec: str


@runtime_checkable
class TrackerSpec(Protocol):
  """What `log.trackers` holds."""

  def make(self, workdir: pathlib.Path) -> Tracker:
    """Begins to track the run in `workdir`, on host 0 alone, also when it is resumed.

    A ConfigError ends the run; with any other error it goes on without this tracker.
    """


class Tracker(Protocol):
  """Where the metrics of a run go besides metrics.jsonl; an error ends the tracker, not the run.

  Calls do not overlap, but come from several threads. Training waits for each.
  """

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """The metrics of a step; a resumed run repeats the steps after its checkpoint."""


class CanLogImages(Protocol):
  """A tracker that shows examples, at the end of the run."""

  def images(self, step: int, images: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """{name: (uint8[H, W, 3], or [F, H, W, 3] of a video, caption)}."""


class CanLogText(Protocol):
  """A tracker that shows texts; the run's configuration, as JSON, is the text "config"."""

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    """{name: text}."""


class CanClose(Protocol):
  """A tracker that has something to finish."""

  def close(self) -> None:
    """The run ends; nothing is logged afterwards."""


# Of each row these two are asked, and `isinstance` of a protocol takes 20 µs.
def where(rows: Rows, row: int) -> str:
  """How messages call a row: what the rows themselves say ("train.jsonl:12"), else its number."""
  return rows.where(row) if hasattr(rows, "where") else f"row {row}"


def own_ops(rows: Rows, row: int) -> tuple[Op, ...]:
  """The ops that a row has of its own, before those for all rows: of a mixture, its part's."""
  return rows.ops(row) if hasattr(rows, "ops") else ()
