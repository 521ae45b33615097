"""Rows that were left out, cut, turned or clipped: counts in metrics.jsonl, and bad_rows.jsonl.

Validation rows are checked before the first step, so that no run fails at its end for a bad one.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.data import examples
from paligemma_jax.multihost import hosts
from paligemma_jax.report import report
from paligemma_jax.trainer import evaluation
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
    before: the counts at the step from which the run resumes.
  """

  def __init__(
    self, before: Mapping[str, int], note: Callable[[str], None], team: hosts.Team | None = None
  ):
    self._team = team
    self._before = collections.Counter(before)
    self._note = note
    self._noted = set(before)

  def upto(self, step: int, counts: Mapping[str, int]) -> dict[str, int]:
    """{name: rows} from the first step on, names sorted; of a new name it is noted what it means.

    Args:
      counts: of this process since the run was resumed, as `TrainLoader.counts` was at `step`.
    """
    total = self._before.copy()
    mine = dict(counts)
    for part in self._team.gather("its counts of rows", mine) if self._team else [mine]:
      total.update(part)
    found = {name: total[name] for name in sorted(total) if total[name] and name != "rows"}
    for name in found.keys() - self._noted:
      self._noted.add(name)
      self._note(
        f"  rows: {found[name]} {meaning(name)} (up to step {step}; metrics.jsonl counts them"
        f" on as {PREFIX}{name})"
      )
    return found


def table(lines: list[dict[str, Any]]) -> report.Table | None:
  """The counts of the last line of metrics.jsonl that has a step's numbers; None without any."""
  last: dict[str, Any] = next((line for line in reversed(lines) if "loss" in line), {})
  rows = tuple(
    (meaning(key.removeprefix(PREFIX)), float(value))
    for key, value in last.items()
    if key.startswith(PREFIX)
  )
  columns = ("what became of them", "rows")
  return report.Table("Training rows, over all epochs", columns, rows) if rows else None


def meaning(name: str) -> str:
  return f"{name}: {_MEANING[name]}" if name in _MEANING else name


class BadRows:
  """The register of rejected rows.

  Host 0 writes what all hosts reject. Rows of evaluators have a field "evaluator" with its name.

  Args:
    anew: empty the file: it is of a start that saved nothing.
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
      team.take_bad_rows(self.add)

  def of(self, evaluator: str) -> set[int]:
    """The rows in the file: those of an evaluator, or with '' of training."""
    return {row for name, row in self._known if name == evaluator}

  def add(self, row: int, where: str, reason: str, *, evaluator: str = "") -> None:
    """Adds a row, unless it is in the file already.

    Args:
      row: its number in the source.
      where: 'file:line' where that is known.
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
      if self._team is not None:  # Always: a host alone has the file.
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


SECS = 1.0
_NUM_SHOWN = 5
_GOLDEN = (math.sqrt(5) - 1) / 2

BadRow = tuple[int, str, str]  # Number, file and line, reason.


@dataclasses.dataclass
class Found:
  """Bad rows of the evaluators with the same source, ops and limits.

  names: of the evaluators.
  num_rows, num_checked: rows that are evaluated, and those of them that were checked.
  bad: in the order of the source.
  """

  names: list[str]
  num_rows: int
  num_checked: int = 0
  bad: list[BadRow] = dataclasses.field(default_factory=list)


def check(runner: evaluation.Runner, *, secs: float = SECS) -> list[Found]:
  """Checks rows of all evaluators of a run, for not much longer than `secs` in all.

  Raises:
    ConfigError: a source cannot be opened.
  """
  setup = runner.setup
  found: list[tuple[examples.ExampleMaker, Found]] = []
  for evaluator in setup.config.evals:
    rows = runner.rows(evaluator.source)
    make_example = examples.ExampleMaker(
      rows,
      tuple(evaluator.pp),
      setup.tokenizer,
      evaluator.encoding,
      evaluator.text_len,
      evaluator.overflow,
      setup.config.seed,
    )
    num_rows = min(len(rows), evaluator.limit) if evaluator.limit else len(rows)
    same = [one for known, one in found if known == make_example and one.num_rows == num_rows]
    if same:
      same[0].names.append(evaluator.name)
    else:
      found.append((make_example, Found([evaluator.name], num_rows)))
  end = time.monotonic() + secs
  for i, (make_example, one) in enumerate(found):
    now = time.monotonic()
    share_end = now + (end - now) / (len(found) - i)
    for row in spread(one.num_rows):
      if one.num_checked and time.monotonic() > share_end:
        break
      one.num_checked += 1
      if reason := make_example.precheck(row):
        one.bad.append((row, protocols.where(make_example.rows, row), reason))
    one.bad.sort()
  return [one for _, one in found]


def refuse(
  found: Sequence[Found],
  budget: int,
  on_bad_row: Callable[[str, int, str, str], None],
  note: Callable[[str], None],
) -> None:
  """Reports how many rows were checked, and the bad ones, with the evaluator's name before each.

  Raises:
    DataError: an evaluator has more of them than `budget`.
  """
  if found:
    parts = (f"{', '.join(f.names)}: {f.num_checked} of {f.num_rows}" for f in found)
    note(f"rows checked before the first step: {'; '.join(parts)}")
  for one in found:
    for name in one.names if one.bad else ():
      for row in one.bad:
        on_bad_row(name, *row)
      if len(one.bad) > budget:
        listed = "".join(f"\n  {where}: {reason}" for _, where, reason in one.bad[:_NUM_SHOWN])
        rest = len(one.bad) - _NUM_SHOWN
        more = f"\n  and {rest} more" if rest > 0 else ""
        raise errors.DataError(
          f"evaluator {name!r} would find {len(one.bad)} bad rows, bad_rows allows {budget}; mend"
          f" or remove them, or raise bad_rows to go on without them:{listed}{more}"
        )


def spread(num_rows: int) -> Iterator[int]:
  """All rows once; wherever one stops, those before lie spread over all."""
  stride = max(1, round(num_rows * _GOLDEN))
  while math.gcd(stride, num_rows) > 1:
    stride += 1
  return ((i * stride) % num_rows for i in range(num_rows))
