"""What became of training rows besides being learned: left out, cut, turned, clipped; counted.

A count goes from the first step to the step of its line, so it does not depend on how far ahead the
loader reads, nor on restarts.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.multihost import hosts
from paligemma_jax.report import report
from paligemma_jax.trainer import workdir as workdirs

PREFIX = "rows/"

_MEANING = {
  "rejected": "left out: bad, see bad_rows.jsonl",
  "dropped": "left out: the text is longer than train.text_len (train.overflow='drop')",
  "truncated": "cut: the text is longer than train.text_len (train.overflow='truncate')",
  "exif_rotated": "turned upright, as the EXIF of the image says",
  "exif_unreadable": "taken as stored: the EXIF of the image is damaged",
  "alpha_dropped": "taken without the transparency of the image",
  "animation_first_frame": "the first frame of an animation was taken",
  "boxes_clipped": "boxes cut at the border of the image",
  "marker_in_text": "with <image>, <bos>, <eos> or <pad> in the text, which are no markers here"
  " but ordinary text: take them out of the data (BOS, EOS and the image are added anyway)",
  "newline_at_end": "whose prompt or answer ends in a line break (newline): take it out of the"
  " data (one is added after every prompt)",
  "box_inverted": "a box whose corners are swapped",
  "annotations_skipped": "without annotations that are wrong (bad_annotations='skip')",
  "tiny_masks_dropped": "without objects thinner than a pixel, for which no mask can be written",
}


class RowCounts:
  """Counts over all steps and hosts.

  Args:
    before: the counts at the step that the run goes on from.
    note: writes a line into the log.
    team: the hosts of the run; None for one alone.
  """

  def __init__(
    self, before: Mapping[str, int], note: Callable[[str], None], team: hosts.Team | None = None
  ):
    self._team = team
    self._before = collections.Counter(before)
    self._note = note
    self._told = set(before)

  def upto(self, counts: Mapping[str, int]) -> dict[str, int]:
    """{name: rows} from the first step on, names sorted.

    Args:
      counts: of this process since the run went on, as `TrainLoader.counts` was at that step.
    """
    total = self._before.copy()
    mine = dict(counts)
    for part in self._team.gather("its counts of rows", mine) if self._team else [mine]:
      total.update(part)
    return {name: total[name] for name in sorted(total) if total[name] and name != "rows"}

  def tell(self, step: int, counts: Mapping[str, int]) -> None:
    """Says once of each kind in `counts` (from `upto`) that there are such rows."""
    for name in counts.keys() - self._told:
      self._told.add(name)
      self._note(
        f"  rows: {counts[name]} {_meaning(name)} (up to step {step}; metrics.jsonl counts them"
        f" on as {PREFIX}{name})"
      )


def table(lines: list[dict[str, Any]]) -> report.Table | None:
  """The counts of the last line of metrics.jsonl that has a step's numbers; None without any."""
  last = next((line for line in reversed(lines) if "loss" in line), {})
  rows = tuple(
    (_meaning(key.removeprefix(PREFIX)), float(value))
    for key, value in last.items()
    if key.startswith(PREFIX)
  )
  return (
    report.Table("Training rows, over all epochs", ("what became of them", "rows"), rows)
    if (rows)
    else None
  )


def _meaning(name: str) -> str:
  return f"{name}: {_MEANING[name]}" if name in _MEANING else name


class BadRows:
  """The register of rejected rows.

  Args:
    workdir: of the run.
    team: the hosts of the run, None for one alone; host 0 writes what all of them reject.
    anew: forget what stands there: it is of a start that came to nothing.

  A row of an evaluator stands there under its name, as "evaluator".
  """

  def __init__(
    self, workdir: workdirs.Workdir, team: hosts.Team | None = None, *, anew: bool = False
  ):
    lines = [] if anew else atomic_io.read_lines(workdir.bad_rows)[0]
    self._file = None
    self._lock = threading.Lock()  # Rows of other hosts come in a thread of their own.
    self._team = team
    if team is None or not team.index:
      self._file = atomic_io.LineFile(
        workdir.bad_rows, map(atomic_io.to_line, lines), fault="bad_rows"
      )
    self._known = {
      (str(line.get("evaluator", "")), line["row"])
      for line in lines
      if isinstance(line.get("row"), int)
    }
    if team is not None and not team.index:
      team.take_bad_rows(self._take)

  def of(self, evaluator: str) -> set[int]:
    """The numbers of the rows that stand in the file: of an evaluator, or with '' of training."""
    return {row for name, row in self._known if name == evaluator}

  def add(self, row: int, where: str, reason: str, *, evaluator: str = "") -> None:
    """Notes a row, unless it stands there already.

    Args:
      row: its number in the source.
      where: 'file:line' where that is known.
      reason: one sentence.
      evaluator: whose row it is; '' for a row of training.

    Raises:
      StateError: the file cannot be written.
    """
    with self._lock:
      if (evaluator, row) in self._known:
        return
      self._known.add((evaluator, row))
    whose = {"evaluator": evaluator} if evaluator else {}
    record = dict(row=row, where=where, reason=reason, **whose)
    if self._file is None:
      self._team.send_bad_row(record)
      return
    try:
      with self._lock:
        self._file.append([record])
    except OSError as e:
      raise errors.StateError(f"{self._file.path} cannot be written: {e.strerror or e}.") from e

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()

  def _take(self, records: list[dict[str, Any]]) -> None:
    """Notes rows of other hosts."""
    for record in records:
      self.add(**record)
