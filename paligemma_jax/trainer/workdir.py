"""A run's folder: its layout, whether it can be written, and which process holds its lock."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import io
import json
import os
import pathlib
import shutil
import socket
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import bucket_lock
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

_WAIT_SECS = 2.0  # A killed process with much memory takes a moment to be gone.
_POLL_SECS = 0.1


class Workdir:
  """The layout of a run's folder; the paths need not exist yet."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.config = path / "config.json"  # The run's configuration.
    self.metrics = path / "metrics.jsonl"  # One JSON object per logged step.
    self.checkpoints = path / "checkpoints"  # A folder per saved step.
    self.tensorboard = path / "tensorboard"  # Event files.
    self.profile = path / "profile"  # Traces of JAX's profiler.
    self.predictions = path / "predictions"  # What evaluators write.
    self.bad_rows = path / "bad_rows.jsonl"  # One JSON object per rejected row.
    self.gallery = path / "gallery.html"  # Images with prompt, target and prediction.
    self.data = path / "data.json"  # Fingerprints of the training rows when the run was started.
    self.rows = path / "data_rows.bin"  # Two bytes for each training row, to find changed ones.
    self.export = path / "params.npz"  # The final weights, if `ckpt.export` asks for them.
    self.report = path / "report.html"  # Scores and curves of the run.


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], *, main: bool) -> Iterator[Workdir]:
  """The workdir, made if it is missing and locked until the block ends.

  The kernel releases the lock when the process dies; in a bucket it runs out. The file `lock` names
  its last holder.

  Args:
    path: a folder, on a disk or in a bucket.
    main: whether this is the process that writes; the others of a run neither write nor lock.

  Raises:
    WorkdirError: it cannot be made or written, or another run, which is named, uses it.
  """
  if not os.fspath(path):
    raise errors.WorkdirError("The workdir is ''; give a folder, as in --workdir runs/first.")
  if bucket.is_bucket(path) and bucket.kind(path) != "gs":
    raise errors.WorkdirError(
      f"{os.fspath(path)!r}: orbax writes the state of a run to a disk or to gs:// alone. Data,"
      " weights and exports may be in s3://; give another --workdir."
    )
  workdir = Workdir(bucket.place(path))
  if not main:
    yield workdir
    return
  make_writable(workdir.path, "workdir", "--workdir")
  with locked(workdir.path / "lock", f"The workdir {str(workdir.path)!r}", "--workdir"):
    if not bucket.is_bucket(workdir.path):
      _check_renames(workdir.path)
    yield workdir


def make_writable(path: pathlib.Path, what: str, flag: str) -> None:
  """Makes the folder if it is missing, and tries to write to it.

  Raises:
    WorkdirError: it cannot be made or written; calls it `what`, and its command-line `flag`.
  """
  try:
    try_to_write(path)
  except (FileExistsError, NotADirectoryError):
    raise errors.WorkdirError(
      f"The {what} {str(path)!r} cannot be made: a file is in its place. Move it, or choose"
      f" another {flag}."
    ) from None
  except OSError as e:
    raise errors.WorkdirError(
      f"The {what} {str(path)!r} cannot be written: {e.strerror or e}. Free it or choose another"
      f" {flag}."
    ) from e


def try_to_write(path: pathlib.Path) -> None:
  """Makes the folder if it is missing, and a file in it for a moment; OSError where it cannot."""
  if bucket.is_bucket(path):
    probe = path / f".writable.{uuid.uuid4().hex}"
    bucket.write(probe, b"x")
    bucket.remove(probe)
    return
  path.mkdir(parents=True, exist_ok=True)
  with tempfile.NamedTemporaryFile("wb", 0, dir=path, prefix=".writable.") as f:
    f.write(b"x")
    os.fsync(f.fileno())


def _check_renames(path: pathlib.Path) -> None:
  """Saves are written under another name and renamed; mounted buckets cannot rename folders."""
  made = pathlib.Path(tempfile.mkdtemp(dir=path, prefix=".renamed."))
  try:
    (made / "before" / "folder").mkdir(parents=True)
    os.rename(made / "before", made / "after")
  except OSError as e:
    raise errors.WorkdirError(
      f"The file system of the workdir {str(path)!r} cannot rename folders ({e.strerror or e}),"
      " so no state could be saved there; mounted buckets are such. Choose a --workdir on a local"
      " disk or a shared file system, and copy it to the bucket afterwards."
    ) from e
  finally:
    shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def locked(path: pathlib.Path, what: str, flag: str) -> Iterator[None]:
  """Holds the lock file of `what` until the block ends, or the process dies.

  Raises:
    WorkdirError: another process, which is named, holds it; or the file system has no locks.
  """
  if bucket.is_bucket(path):
    with _leased(path, what, flag):
      yield
    return
  try:
    lock = open(atomic_io.open_own(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
  except OSError as e:
    raise errors.WorkdirError(f"{str(path)!r} cannot be opened: {e.strerror}.") from e
  # A forked child, a loader's worker for instance, has the lock too and might outlive us.
  this = weakref.ref(lock)
  os.register_at_fork(after_in_child=lambda: lock.close() if (lock := this()) else None)
  try:
    _acquire(lock, what, flag)
    yield
  finally:
    lock.close()


@contextlib.contextmanager
def _leased(path: pathlib.Path, what: str, flag: str) -> Iterator[None]:
  """`locked` in a bucket, where a holder that dies or hangs loses the lock after a while."""
  lease = bucket_lock.Lease(path, _record(), _end)
  logging.info("taking %s; if its last holder died, that takes %d s", path, bucket_lock.LEASE_SECS)
  try:
    holder = lease.acquire()
  except OSError as e:
    raise errors.WorkdirError(f"{str(path)!r} cannot be written: {e.strerror}.") from e
  if holder is not None:
    raise errors.WorkdirError(
      f"{what} is in use by {_named(holder)}. Wait for it, stop it, or choose another {flag}."
    )
  try:
    yield
  finally:
    lease.close()


def _end(reason: str) -> None:
  """Ends the process at once: from now on all that it writes could destroy another's work."""
  logging.error("%s. This process ends without saving; its last saved state is intact.", reason)
  logging.flush()
  os._exit(errors.WorkdirError.exit_code)


def _acquire(lock: io.FileIO, what: str, flag: str) -> None:
  deadline = time.monotonic() + _WAIT_SECS
  while True:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      break
    except BlockingIOError:
      if time.monotonic() > deadline:
        raise errors.WorkdirError(
          f"{what} is in use by {_holder(lock)}. Wait for it, stop it, or choose another {flag}."
        ) from None
      time.sleep(_POLL_SECS)
    except OSError as e:
      raise errors.WorkdirError(
        f"{what} is on a file system that has no locks ({e.strerror}), so two processes could"
        f" destroy each other's work; choose a {flag} on another file system."
      ) from e
  lock.truncate(0)
  lock.write(json.dumps(_record()).encode() + b"\n")


def _holder(lock: io.FileIO) -> str:
  try:
    return _named(strict_json.parse_object(lock.read(4096)))
  except strict_json.Malformed:
    return "another process"


def _record() -> dict[str, Any]:
  """What the lock says of this process."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  return dict(host=socket.gethostname(), pid=os.getpid(), since=now)


def _named(record: Mapping[str, Any]) -> str:
  try:
    return f"process {record['pid']} on {record['host']} since {record['since']}"
  except KeyError:
    return "another process"
