"""What a run reports: one line per step in metrics.jsonl, the same numbers for its trackers.

Each step is in metrics.jsonl exactly once, also after a crash, and a run that was killed and
started again leaves the same bytes as one that was not, except for values of TIMING_KEYS. The
caller keeps the order that makes it so: all lines of steps before s are written before the
checkpoint of s is saved; on a restart from s later lines are cut, and the line of s is written if
it is missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import tempfile
import textwrap
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from paligemma_jax import evals
from paligemma_jax import trackers as trackers_lib
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import process
from paligemma_jax.core import protocols
from paligemma_jax.trainer import progress
from paligemma_jax.trainer import workdir as workdirs

# The keys whose values come from a clock; a comparison of two runs leaves them out.
TIMING_KEYS = ("examples_per_second", *progress.TIMES)
_CLOSE_SECS = 60.0
_NON_FINITE = ("NaN", "Infinity", "-Infinity")  # As `atomic_io.to_line` spells them.


class MetricsLog:
  """Writes the numbers of each step.

  Args:
    resume_step: the step of the restored state; -1 when the run starts anew. Lines of later steps
      are cut.
    tensorboard, trackers: as of the config's `log`.
    spent: the `Progress.times` so far. Where lines are cut they go into the last that is kept, so
      that the next process knows them too.
    main: whether this is the process that writes; in the others all calls do nothing.
  """

  def __init__(
    self,
    workdir: workdirs.Workdir,
    *,
    resume_step: int,
    tensorboard: bool,
    trackers: Sequence[str | protocols.TrackerSpec] = (),
    spent: Mapping[str, float] | None = None,
    main: bool,
  ):
    self._last_step = resume_step
    self._file: atomic_io.LineFile | None = None
    self._trackers: list[tuple[str, Any]] = []
    self._missed: dict[str, int] = {}  # {tracker that has ended: lines that it did not get}
    if not main:
      return
    lines = _lines(workdir.metrics)
    kept = [line for line in lines if line["step"] <= resume_step]
    if kept and spent and len(kept) < len(lines):
      kept[-1] |= spent
    self._file = atomic_io.LineFile(workdir.metrics, map(atomic_io.to_line, kept), fault="metrics")
    if tensorboard:
      self._begin("TensorBoard", lambda: EventFile(workdir.tensorboard, resume_step))
    for spec in trackers:
      tracker = trackers_lib.TRACKERS[spec]() if isinstance(spec, str) else spec
      self._begin(type(tracker).__name__, functools.partial(tracker.make, workdir.path))

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes the line of a step, which is on disk when this returns; steps rise.

    Args:
      values: scalars of Python, NumPy or JAX (which are waited for); those of evaluations are named
        '<eval name>/<metric>'.

    Raises:
      StateError: the file cannot be written.
    """
    assert step > self._last_step, f"step {step} was written already"
    self._last_step = step
    line = {name: number(value) for name, value in values.items()}
    for key in TIMING_KEYS:
      if key in line:
        line[key] = line.pop(key)  # The last ones.
    if self._file is None:
      return
    try:
      self._file.append([{"step": step, **line}])
    except OSError as e:
      raise errors.StateError(f"{self._file.path} cannot be written: {e.strerror or e}.") from e
    self._missed = {name: count + 1 for name, count in self._missed.items()}
    self._track("log", step, line)

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    """Shows texts, by name, in the trackers that can."""
    self._track("text", step, texts)

  def predictions(self, step: int, tables: Mapping[str, str]) -> None:
    """Shows tables in Markdown, by name, in the trackers that can."""
    if tables:
      self._track("predictions", step, tables)

  def images(self, step: int, images: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """Shows images with captions, by name, in the trackers that can."""
    self._track("images", step, images)

  def __enter__(self) -> MetricsLog:
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    """Closes at the end of a run, which may have ended with an error."""
    if error is not None:
      self._track("fail", str(error))
    self.close()

  def close(self) -> None:
    """Closes the files and trackers, for which it waits a minute at most."""
    if self._file is not None:
      self._file.close()
    closing = process.started(lambda: self._track("close"))
    if not futures.wait([closing], _CLOSE_SECS).done:
      logging.error("trackers are left: they did not close within %.0f s", _CLOSE_SECS)
    self._trackers = []
    for name, count in self._missed.items():
      logging.warning("%s lacks %d lines of metrics.jsonl", name, count)
    self._missed = {}

  def _begin(self, name: str, make: Callable[[], protocols.Tracker]) -> None:
    try:
      self._trackers.append((name, make()))
    except errors.PaligemmaError:
      raise
    except Exception as e:  # Of other people's code, here and below: any.
      self._give_up(name, e)

  def _track(self, method: str, *args: Any) -> None:
    """Calls a method of the trackers that have it; one that fails is called no more."""
    for name, tracker in list(self._trackers):
      if not hasattr(tracker, method):
        continue
      try:
        getattr(tracker, method)(*args)
      except Exception as e:
        self._trackers.remove((name, tracker))
        self._give_up(name, e, missed=method == "log")
        if method != "close" and hasattr(tracker, "close"):
          with contextlib.suppress(Exception):
            tracker.close()

  def _give_up(self, name: str, error: Exception, *, missed: bool = False) -> None:
    self._missed[name] = int(missed)
    logging.error(
      "nothing more is logged to %s: %s: %s; metrics.jsonl has all numbers",
      name,
      type(error).__name__,
      error,
      exc_info=not isinstance(error, OSError),
    )


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The lines of a jsonl, also of a run that is under way or was killed, steps rising.

  Non-finite numbers come back as floats. A line with anything else than numbers is none of ours.
  """
  return [parsed(line.items()) for line in _lines(path)]


def plain(values: Mapping[str, int | float]) -> list[list[Any]]:
  """Names and values as JSON holds them: a float that it has no number for is a text.

  Pairs keep their order in a file whose keys are sorted.
  """
  return [[name, value] for name, value in json.loads(atomic_io.to_line(values)).items()]


def parsed(pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
  """The inverse of `plain`: non-finite numbers are floats again."""
  return {name: float(v) if isinstance(v, str) else v for name, v in pairs}


def of_step(
  numbers: Mapping[str, np.ndarray], rows: np.ndarray, more: Mapping[str, int]
) -> dict[str, int | float]:
  """What a line says of a training step.

  Args:
    numbers: the `sums` of the step; see `training.step`.
    rows: int64[b], the row numbers of its batch.
  """
  num_tokens = float(numbers["num_tokens"])
  values = {
    "loss": numbers["loss"],
    "lr": numbers["lr"],
    "grad_norm": numbers["grad_norm"],
    "update_norm": numbers["update_norm"],
    "token_accuracy": float(numbers["num_correct"]) / max(num_tokens, 1.0),
    "num_tokens": int(num_tokens),
    "num_rows": int(numbers["num_rows"]),
    **more,
    # Equal for two runs only if they saw the same rows in the same places.
    "rows_crc32": rows_crc32(rows),
  }
  return {name: number(value) for name, value in values.items()}


def rows_crc32(rows: np.ndarray) -> int:
  """The checksum of row numbers in their order, int64[b]."""
  return zlib.crc32(np.ascontiguousarray(rows, np.int64).tobytes())


def number(value: Any) -> int | float:
  """A Python number; a float32 becomes the shortest decimal that reads back as the same float32."""
  if isinstance(value, (bool, int, float)):
    return value
  array = np.asarray(value)
  if array.shape != ():
    raise errors.ConfigError(f"A metric must be a single number; got shape {list(array.shape)}.")
  if array.dtype.kind in "iub":
    return int(array)
  if array.dtype == np.float64:
    return float(array)
  return float(str(array.astype(np.float32)))


def _lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Lines of a rising step and numbers alone; somebody may have edited the file."""
  kept, last = [], -1
  for line in atomic_io.read_lines(path)[0]:
    numbers = all(isinstance(v, (int, float)) or v in _NON_FINITE for v in line.values())
    if numbers and type(line.get("step")) is int and line["step"] > last:
      kept.append(line)
      last = line["step"]
  return kept


_UPLOAD_SECS = 60.0  # Between copies of TensorBoard's file to a bucket.


class EventFile:
  """The tracker of TensorBoard: a new event file.

  Args:
    folder: made when it is missing; files of earlier processes stay.
    resume_step: as of `MetricsLog`.

  Raises:
    ConfigError: tensorboardX is not installed.
    WorkdirError: the folder, or something in it, is a link.
    OSError: it cannot be written; also by `log`.
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
    self._summary, self._event = summary, event_pb2.Event
    purge = resume_step >= 0 or folder.exists()
    # Without a number of its own a file made within the same second would be overwritten.
    suffix = f".{len(list(folder.glob('*tfevents*'))):04d}" if folder.exists() else ".0000"
    self._bucket_folder: Any = None
    if bucket.is_bucket(folder):
      self._bucket_folder, self._local = folder, tempfile.TemporaryDirectory()
      folder = pathlib.Path(self._local.name)
    else:
      atomic_io.make_folder(folder, below=folder.parent)
      # Event files have predictable names, and another library opens them.
      if link := next(filter(pathlib.Path.is_symlink, sorted(folder.glob("*"))), None):
        raise errors.WorkdirError(
          f"{str(link)!r} is a link, and nothing is written through a link in a run's folder."
          " Remove it, or set log.tensorboard=False."
        )
    self._uploaded_at = time.monotonic()
    self._file = event_file_writer.EventsWriter(str(folder / "events"), suffix)
    if purge:
      # Readers hide what earlier, killed processes wrote for steps from this one on.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      for field in ({"file_version": "brain.Event:2"}, {"session_log": start}):
        self._file.write_event(self._event(step=resume_step + 1, **field))

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds the metrics of a step; they are on disk afterwards."""
    self._add(step, (self._summary.scalar(name, value) for name, value in metrics.items()))

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    """Adds texts, which are shown as they are."""
    self.predictions(step, {name: textwrap.indent(text, "    ") for name, text in texts.items()})

  def predictions(self, step: int, tables: Mapping[str, str]) -> None:
    """Adds texts in Markdown."""
    self._add(step, (self._summary.text(name, table) for name, table in tables.items()))

  def images(self, step: int, images: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """Adds images, and their captions as texts of the same names."""
    for name, (image, _) in images.items():
      self._add(step, [self._summary.image(name, image, dataformats="HWC")])
    self.text(step, {name: caption for name, (_, caption) in images.items()})

  def _add(self, step: int, summaries: Iterable[Any]) -> None:
    for summary in summaries:
      event = self._event(summary=summary)
      event.wall_time, event.step = time.time(), step
      self._file.write_event(event)
    self._file.flush()
    if self._bucket_folder and time.monotonic() - self._uploaded_at > _UPLOAD_SECS:
      self._upload()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
    if self._bucket_folder:
      self._upload()
      self._local.cleanup()

  def _upload(self) -> None:
    self._uploaded_at = time.monotonic()
    for path in pathlib.Path(self._local.name).iterdir():
      bucket.upload(path, self._bucket_folder / path.name)


def check_best_name(config: ml_collections.ConfigDict) -> None:
  """Passes when `ckpt.best` is '' or a metric that its evaluator can have.

  What evaluators of other people's measure, and scores by kinds that only the rows name, are
  known when they first ran: `check_best_found`.

  Raises:
    ConfigError: naming the near match.
  """
  best, evaluator = config.ckpt.best, _evaluator(config)
  if evaluator is None or type(evaluator) not in evals.EVALUATORS.values():
    return
  metric = best.removeprefix(f"{evaluator.name}/")
  known = evaluator.score([], [])
  if evaluator.bootstrap:
    metric = metric.removesuffix("/low").removesuffix("/high")
  if metric not in known and "/" not in metric:
    raise errors.ConfigError(_unknown(best, [f"{evaluator.name}/{name}" for name in known]))


def check_best_found(config: ml_collections.ConfigDict, results: Mapping[str, float]) -> None:
  """Passes when the metric is among those that its evaluator found, or that did not run.

  Raises:
    ConfigError: naming the near match.
  """
  best, evaluator = config.ckpt.best, _evaluator(config)
  known = [name for name in results if evaluator and name.startswith(f"{evaluator.name}/")]
  if known and best not in results:
    raise errors.ConfigError(_unknown(best, known))


def best_scores(best: str, lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
  """{step: value of the metric} in lines of metrics.jsonl; of steps that can be saved: not 0."""
  return {line["step"]: line[best] for line in lines if line["step"] and best in line}


def best_summary(ckpt: ml_collections.ConfigDict, workdir: workdirs.Workdir, saved: int) -> str:
  """One sentence on which step was the best and where it is.

  Args:
    saved: the best step that is saved; 0 when there is none.
  """
  best = ckpt.best
  values = best_scores(best, read(workdir.metrics))
  if not values:
    return f"best {best}: it was never measured, so no step is kept for it"
  top = (max if ckpt.best_mode == "max" else min)(values.values())
  if values.get(saved) != top:
    where = max(s for s, value in values.items() if value == top)
    return f"best {best}: {top:.6g} at step {where}, whose state is not saved"
  return f"best {best}: {top:.6g} at step {saved}, saved in {workdir.checkpoints}/{saved}"


def _evaluator(config: ml_collections.ConfigDict) -> evals.Evaluator | None:
  """The one that `ckpt.best` is a metric of; None when it is ''."""
  named = [e for e in config.evals if config.ckpt.best.startswith(f"{e.name}/")]
  return max(named, key=lambda e: len(e.name), default=None)


def _unknown(best: str, known: list[str]) -> str:
  return f"ckpt.best={best!r} is no metric of its evaluator.{errors.did_you_mean(best, known)}"
