"""The lock of a run in a bucket: an object with a lease that its holder renews.

Objects cannot be locked. But one can be created where none is, and replaced if nobody else has
replaced it since; and a holder that no longer replaces its own has died, or hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from paligemma_jax.core import bucket
from paligemma_jax.core import strict_json

RENEW_SECS = 4.0
LEASE_SECS = 30.0  # Seven renewals; a machine that is stopped for longer has lost the run.


class Lease:
  """The lock of a run in a bucket: an object that its holder renews, and a dead holder loses.

  A holder lives while the object changes as one watches, so no clocks are compared. One that was a
  process of this machine and is gone has lost it at once.

  Args:
    path: the object.
    record: plain JSON data that names the holder.
    lost: called, from another thread, with the reason when somebody else has taken the lock.
  """

  def __init__(self, path: Any, record: dict[str, Any], lost: Callable[[str], None]):
    self._path = path
    self._record = {**record, "process": _process(os.getpid()), "holder": uuid.uuid4().hex}
    self._record["renewed"] = 0
    self._lost = lost
    self._version = ""
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

  def acquire(self) -> dict[str, Any] | None:
    """None once it is held; the record of the holder where another process lives and holds it."""
    seen: tuple[str, str] | None = None  # (holder, version)
    since = 0.0
    while True:
      try:
        self._version = bucket.create(self._path, self._data())
        break
      except FileExistsError:
        pass
      try:
        version = bucket.stat(self._path).version
        holder = strict_json.parse_object(bucket.read(self._path, max_bytes=4096))
      except FileNotFoundError:
        continue
      except strict_json.Malformed:
        holder = {}
      now = str(holder.get("holder")), version
      if seen and now != seen:
        return holder  # It was renewed, or taken, while we looked.
      if seen is None:
        seen, since = now, time.monotonic()
      is_free = holder.get("released") or _is_gone(holder.get("process"))
      if is_free or time.monotonic() - since > LEASE_SECS:
        try:
          self._version = bucket.replace(self._path, self._data(), version)
          break
        except FileExistsError:
          continue
      time.sleep(0.25)
    self._thread.start()
    return None

  def close(self) -> None:
    """Gives the lock up; the object goes on to name its last holder."""
    self._closed.set()
    if self._thread.is_alive():
      self._thread.join()
    if self._version:
      with contextlib.suppress(OSError):  # It runs out by itself.
        bucket.replace(self._path, self._data(released=True), self._version)

  def _data(self, **more: Any) -> bytes:
    return json.dumps({**self._record, **more}).encode() + b"\n"

  def _renew(self) -> None:
    wait = RENEW_SECS
    while not self._closed.wait(wait):
      self._record["renewed"] += 1
      try:
        self._version = bucket.replace(self._path, self._data(), self._version)
        wait = RENEW_SECS
      except (FileExistsError, FileNotFoundError):
        self._lost(f"{self._path} was taken by another process, since it was not renewed in time")
        return
      except OSError:  # Nobody may have noticed; the next try tells.
        wait = 1.0


def _process(pid: int) -> list[Any] | None:
  """What tells a process from all others of all machines; None where Linux is not the system."""
  with contextlib.suppress(OSError, ValueError, IndexError):
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
      boot = f.read().strip()
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
      fields = f.read().rpartition(")")[2].split()
    if fields[0] not in "ZX":  # A zombie has ended.
      return [boot, os.readlink("/proc/self/ns/pid"), pid, fields[19]]
  return None


def _is_gone(process: Any) -> bool:
  """Whether it was a process of this machine, as `_process` tells, and has ended."""
  mine = _process(os.getpid())
  if not (mine and isinstance(process, list) and len(process) == 4 and process[:2] == mine[:2]):
    return False
  return type(process[2]) is int and _process(process[2]) != process
