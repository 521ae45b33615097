"""The hosts of a run as a team: they gather values, stop together and end together.

A host is a process; a machine may have several, and one process alone has no team. An error, a stop
or the death of one host reaches all. No host waits for another longer than a limit; then the error
names the missing host and what it was last doing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import logging

from paligemma_jax.core import errors
from paligemma_jax.multihost import channel

_NOTICE_SECS = 10.0
_CAUSE_SECS = 3.0  # How long to wait for another host to report the cause of an error.
_LEAVE_SECS = 5.0
_FIRST_NOTICE_SECS = 60.0
_WATCH_SECS = 1.0


@dataclasses.dataclass
class _Place:
  """The progress of a host, as last reported: safe points passed, what it does, since when."""

  position: int = 0
  doing: str = "getting ready"
  since: float = 0.0

  def __str__(self) -> str:
    return f"{self.doing} (for {time.monotonic() - self.since:.0f} s)"


class Team:
  """The hosts of this run, seen from one of them. All methods are safe in any thread.

  Args:
    ours: this host's end of the channel.
    stall_secs: all hosts end when none makes progress for so long.

  Attributes:
    index, count: as of the channel.
    asked: the name of the signal that asked some host to stop, or ''.
    on_finish: called when all hosts are done.
  """

  _add_bad_row: Callable[..., None]

  def __init__(self, ours: channel.Channel, *, stall_secs: float):
    self.asked = ""
    self.on_finish: list[Callable[[], None]] = []
    self._stall_secs = stall_secs
    self._changed = threading.Condition()
    self._values: dict[str, dict[int, Any]] = {}
    self._num_gathers = 0
    self._position = 0
    self._stop_at: int | None = None
    self._is_ending = False  # Because of a failure, here or elsewhere.
    self._said_goodbye = False
    self._channel, self.index, self.count = ours, ours.index, ours.count
    ours.on_message, ours.on_lost = self._take, self._lost
    now = time.monotonic()
    self._places = {i: _Place(since=now) for i in range(self.count)}

  def meet(self, timeout_secs: float, on_wait: Callable[[str], None]) -> None:
    """Waits for the other hosts, see `Channel.meet`, and watches them from then on."""
    self._channel.meet(timeout_secs, on_wait)
    threading.Thread(target=self._watch, name="watch", daemon=True).start()

  def label(self, host: int) -> str:
    """'host 1 (its name)'."""
    return f"host {host} ({self._channel.names.get(host, '?')})"

  def doing(self, what: str) -> None:
    """Notes what this host is doing, for messages of the others."""
    with self._changed:
      place = self._places[self.index]
      if place.doing != what:
        self._places[self.index] = _Place(place.position, what, time.monotonic())

  def gather(self, what: str, value: Any, *, key: str = "") -> list[Any]:
    """The values, JSON data, of all hosts in their order; all call it in the same order.

    Args:
      what: for messages.
      key: of what is gathered in an order of its own, as by a thread that may be left; used once.

    Raises:
      HostError: a host did not come within `stall_secs`.
    """
    # Host 0 gives up first, since it knows what the others are doing.
    secs = self._stall_secs + (5.0 if self.index else 0.0)
    if not key:
      with self._changed:
        self._num_gathers += 1
        key = f"{self._num_gathers} {what}"
    return self._gather(key, what, value, secs)

  def _gather(self, key: str, what: str, value: Any, secs: float) -> list[Any]:
    self._channel.send({"kind": "value", "key": key, "value": value})
    begin, told = time.monotonic(), False
    with self._changed:
      self._values.setdefault(key, {})[self.index] = value
      while len(self._values[key]) < self.count:
        waited = time.monotonic() - begin
        gone = [i for i in range(self.count) if i not in self._values[key]]
        last = "; ".join(str(self._places[i]) for i in gone[:5])
        if waited > secs:
          raise errors.HostError(
            f"{self._named(gone)} did not reach {what!r} within {secs:.0f} s; last {last}."
            " Were all hosts started with the same command?"
          )
        if waited > _NOTICE_SECS and not told:
          told = True
          logging.warning("waiting for %s at %r; last %s", self._named(gone), what, last)
        self._changed.wait(0.5)
      values = self._values.pop(key)
    return [values[i] for i in range(self.count)]

  def send_bad_row(self, record: dict[str, Any]) -> None:
    """Sends a rejected row to host 0, which records it."""
    self._channel.send({"kind": "bad_row", "row": record, "private": True})

  def take_bad_rows(self, add: Callable[..., None]) -> None:
    """On host 0, before the others send any: calls `add` with the fields of their rejected rows."""
    self._add_bad_row = add

  def ask_stop(self, name: str) -> None:
    """Asks all hosts to stop at the next safe point that they can reach together."""
    self._channel.send({"kind": "stop", "name": name})
    self._take(self.index, {"kind": "stop", "name": name})

  def stop_here(self) -> str:
    """The name of the signal when all hosts stop at this safe point, else ''.

    All hosts reach the safe points in the same order, as the ends of steps. When a stop is asked
    for, each host reports the last one that it passed; all stop after the latest of them.
    """
    with self._changed:
      if self.asked:
        self._changed.wait_for(lambda: self._stop_at is not None)
        if self.stops_next():
          return self.asked
      self._position += 1
      place = self._places[self.index]
      self._places[self.index] = _Place(self._position, place.doing, time.monotonic())
      return ""

  def stops_next(self) -> bool:
    """Whether all hosts stop at the next safe point of this one."""
    with self._changed:
      return self._stop_at is not None and self._position + 1 >= self._stop_at

  def leave(self, code: int, text: str) -> NoReturn:
    """Ends this process at once, and the others with the same exit code."""
    with self._changed:
      self._is_ending = True
    text = f"{self.label(self.index)} ended: {text}"
    self._channel.send({"kind": "failure", "code": code, "text": text})
    self._leave(code)

  def fail(self, error: BaseException) -> NoReturn:
    """Ends this process because of `error`, and all the others with the same exit code.

    An error that another host's end causes is not reported; that end is.
    """
    ours = isinstance(error, errors.PaligemmaError) and not isinstance(error, errors.HostError)
    secs = 0.0 if ours or isinstance(error, (KeyboardInterrupt, SystemExit)) else _CAUSE_SECS
    code, text = errors.code_and_text(error)
    with self._changed:
      is_late = self._changed.wait_for(lambda: self._is_ending, timeout=secs)
      self._is_ending = True
    if is_late:
      time.sleep(3600)  # The thread that reports the failure ends the process.
    if code == 1:
      traceback.print_exception(error)  # Our own mistake, or user code's.
    print(f"error: {text}", file=sys.stderr, flush=True)
    self.leave(code, text)

  def finish(self) -> None:
    """Waits until all hosts are done; the end of one is no failure from here on."""
    self.doing("waiting for the others to end")
    self._gather("the end", "the end", None, float("inf"))
    with self._changed:
      self._said_goodbye = True
    for call in self.on_finish:
      call()
    self._channel.close()

  def goodbye(self) -> None:
    """Tells the others that this process ends without a failure."""
    if not self._said_goodbye:
      self._said_goodbye = True
      self._channel.close()

  def _named(self, hosts: list[int]) -> str:
    more = f" and {len(hosts) - 5} more" if len(hosts) > 5 else ""
    return ", ".join(map(self.label, hosts[:5])) + more

  def _take(self, host: int, message: channel.Message) -> None:
    """Handles a message of another host, in the channel's thread."""
    kind = message.get("kind")
    if kind == "failure":
      self._end(int(message["code"]), str(message["text"]))
      return
    if kind == "bad_row":
      try:
        self._add_bad_row(**message["row"])
      except Exception as e:  # For instance a full disk. This thread must go on.
        threading.Thread(target=self.fail, args=(e,), name="ending", daemon=True).start()
      return
    with self._changed:
      if kind == "value":
        self._values.setdefault(message["key"], {})[host] = message["value"]
      elif kind == "place":
        now = time.monotonic() - float(message["secs"])
        self._places[host] = _Place(int(message["position"]), str(message["doing"]), now)
      elif kind == "stop" and not self.asked:
        self.asked = str(message["name"])
        who = "" if host == self.index else f" on {self.label(host)}"
        logging.warning(
          "%s%s: all hosts stop at the next point they can stop at together", self.asked, who
        )
        self._channel.send({"kind": "value", "key": "stop", "value": self._position})
        self._values.setdefault("stop", {})[self.index] = self._position
      positions = self._values.get("stop", {})
      if self._stop_at is None and len(positions) == self.count:
        self._stop_at = max(positions.values()) + 1
      self._changed.notify_all()

  def _lost(self, host: int, why: str) -> None:
    """Ends all hosts because one is gone, in the channel's thread."""
    if self._said_goodbye:
      return
    self._end_all(f"{self.label(host)} is gone: {why}. It was last {self._places[host]}.")

  def _end_all(self, text: str) -> None:
    """Ends all hosts with a HostError's exit code."""
    code = errors.HostError.exit_code
    self._channel.send({"kind": "failure", "code": code, "text": text})
    self._end(code, text)

  def _watch(self) -> None:
    """Reports this host's progress; on host 0, ends all when none makes any."""
    told = 0.0
    while not self._said_goodbye and not self._is_ending:
      time.sleep(_WATCH_SECS)
      with self._changed:
        place = self._places[self.index]
        still = time.monotonic() - max(p.since for p in self._places.values())
        missing = self._missing()
      now = time.monotonic()
      # Host 0 watches all. The others need only its progress, should it be gone.
      report = dict(kind="place", position=place.position, doing=place.doing)
      self._channel.send({**report, "secs": now - place.since, "private": bool(self.index)})
      if self.index:
        continue
      if still > self._stall_secs:
        self._end_all(f"No host made progress for {still:.0f} s: {missing}.")
      elif still > _FIRST_NOTICE_SECS and now - told > max(_FIRST_NOTICE_SECS, still / 2):
        told = now
        logging.warning("no host made progress for %.0f s: %s", still, missing)

  def _missing(self) -> str:
    """The hosts that are behind, and what they were last doing."""
    least = min(p.position for p in self._places.values())
    most = max(p.position for p in self._places.values())
    behind = [i for i, p in self._places.items() if p.position == least]
    if least == most:
      # All are at the same point: the others wait for those outside of a common operation.
      own = [i for i in behind if not self._places[i].doing.startswith("in ")]
      behind = own or behind
    listed = "; ".join(f"{self.label(i)} was last {self._places[i]}" for i in behind[:5])
    if others := [i for i in self._places if i not in behind]:
      listed += f"; waiting for it: {self._named(others)}, last {self._places[others[0]]}"
    return listed

  def _end(self, code: int, text: str) -> None:
    """Ends the process because of another host, from a thread of its own."""
    with self._changed:
      if self._is_ending or self._said_goodbye:
        return
      self._is_ending = True
      self._changed.notify_all()

    def leave() -> None:
      print(f"error: {text}", file=sys.stderr, flush=True)
      self._leave(code)

    threading.Thread(target=leave, name="ending", daemon=True).start()

  def _leave(self, code: int) -> NoReturn:
    """Ends the process when the others have its last message."""
    self._channel.leave(_LEAVE_SECS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def failing_together(team: Team | None) -> Iterator[None]:
  """An error in the block ends this process, and all the others with the same exit code."""
  try:
    yield
  except BaseException as e:
    if team is None:
      raise
    team.fail(e)


@contextlib.contextmanager
def ending_together(team: Team | None) -> Iterator[None]:
  """Waits at the end of the block for all hosts, which are no team after it.

  A run that is stopped, on all hosts at the same point, raises its Interrupted after that.
  """
  if team is None:
    yield
    return
  interrupted = None
  with failing_together(team):
    try:
      yield
    except errors.Interrupted as e:
      interrupted = e
    team.finish()
  if interrupted is not None:
    raise interrupted
