"""The numbers of a run for TensorBoard: a copy of metrics.jsonl that a run does without in need.

Written here, not in tensorboardX's thread: when that dies of a full disk, the queue before it fills
up and the run waits for it for ever.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import logging

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors


class EventFile:
  """A new event file; what cannot be written is said once, and nothing more is written then.

  Args:
    folder: made when it is missing; files of earlier processes stay.
    resume_step: the step that the run goes on from, or -1.

  Raises:
    ConfigError: tensorboardX is not installed.
    WorkdirError: the folder, or something in it, is a link.
  """

  def __init__(self, folder: pathlib.Path, resume_step: int):
    try:
      # Takes 0.5 s, which a run without TensorBoard need not wait.
      from tensorboardX import event_file_writer
      from tensorboardX import summary
      from tensorboardX.proto import event_pb2
    except ImportError as e:
      raise errors.ConfigError(
          "log.tensorboard=True needs a package that is not here: `pip install tensorboardX`, or"
          " set log.tensorboard=False."
      ) from e
    self._folder, self._scalar, self._event = folder, summary.scalar, event_pb2.Event
    self._file: Any = None
    purge = resume_step >= 0 or folder.exists()
    try:
      atomic_io.make_folder(folder, below=folder.parent)
      _check_links(folder)
      # Without a number of its own a file made within the same second would be overwritten.
      suffix = f".{len(list(folder.glob('*tfevents*'))):04d}"
      self._file = event_file_writer.EventsWriter(str(folder / "events"), suffix)
      if purge:
        # Readers hide what earlier, killed processes wrote for steps from this one on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        for field in ({"file_version": "brain.Event:2"}, {"session_log": start}):
          self._file.write_event(self._event(step=resume_step + 1, **field))
    except OSError as e:
      self._give_up(e)

  def write(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines as they stand in metrics.jsonl; they are on disk afterwards."""
    if self._file is None:
      return
    try:
      for record in records:
        for name, value in record.items():
          if name != "step":
            event = self._event(summary=self._scalar(name, value))
            event.wall_time, event.step = time.time(), record["step"]
            self._file.write_event(event)
      self._file.flush()
    except OSError as e:
      self._give_up(e)

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def _give_up(self, error: OSError) -> None:
    logging.error(
        "nothing more is written for TensorBoard to %s: %s; metrics.jsonl has all numbers",
        self._folder, error.strerror or error,
    )
    with contextlib.suppress(OSError):
      self.close()
    self._file = None


def _check_links(folder: pathlib.Path) -> None:
  """Event files have names that can be foretold, and another library opens them."""
  for path in sorted(folder.glob("*")):
    if path.is_symlink():
      raise errors.WorkdirError(
          f"{str(path)!r} is a link, and nothing is written through a link in a run's folder."
          " Remove it, or set log.tensorboard=False."
      )
