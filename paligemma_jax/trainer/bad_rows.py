"""bad_rows.jsonl: each rejected row once, with its file, line and reason, also after a restart."""

from __future__ import annotations

import threading
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.multihost import hosts
from paligemma_jax.trainer import files
from paligemma_jax.trainer import workdir as workdirs


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
    lines = [] if anew else files.read_lines(workdir.bad_rows)[0]
    self._file = None
    self._lock = threading.Lock()  # Rows of other hosts come in a thread of their own.
    self._team = team
    if team is None or not team.index:
      self._file = files.LineFile(workdir.bad_rows, map(files.to_line, lines), fault="bad_rows")
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
