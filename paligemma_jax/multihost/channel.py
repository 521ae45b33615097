"""Messages between the hosts of a run: TCP connections of all of them to host 0.

When a host is missing or dies, JAX's client of the coordination service waits in silence, then
aborts the process with a C++ stack. So all hosts meet here first, on the coordinator's port, and
join JAX after that. JAX's own connections run through the same port. When host 0 dies they stay
open without data, so that this module notices it first and the run ends with one error message.

A message is one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent import futures
from typing import Any

from paligemma_jax.core import errors

Message = dict[str, Any]

_VERSION = 1
_MAX_LINE_BYTES = 2**26
_RETRY_SECS = 0.5
_BLOCK_BYTES = 2**16
# A machine that fails does not reset its connections; the others notice its silence.
BEAT_SECS = 2.0
SILENT_SECS = 30.0


class Channel:
  """What both ends share: an event loop in a thread of its own, heartbeats, the callbacks.

  Args:
    name: of this host, for messages to people.

  Attributes:
    index, count: the number of this host, and how many there are.
    names: of all hosts; complete when `meet` has returned.
    jax_port: of this machine; leads to JAX's coordination service, which runs beside host 0.
    on_message: set before `meet`; called in the channel's thread with (host, message); must not
      block.
    on_lost: as `on_message`, with (host, why) when a host ends without a goodbye.
  """

  jax_port: int
  on_message: Callable[[int, Message], None]
  on_lost: Callable[[int, str], None]

  def __init__(self, index: int, count: int, name: str):
    self.index = index
    self.count = count
    self.names = {index: name}
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, name="hosts", daemon=True)
    self._thread.start()
    self._deadline = 0.0
    self._all_here = threading.Event()
    self._refused = ""
    self._closing = False
    self._heard: dict[int, float] = {}
    self._writers: dict[int, asyncio.StreamWriter] = {}
    self._servers: list[asyncio.Server] = []

  def meet(self, timeout_secs: float, on_wait: Callable[[str], None]) -> None:
    """Waits for all hosts; calls `on_wait` once a second with a text that names the missing ones.

    Raises:
      HostError: not all hosts came in time; the known missing ones are named.
      ConfigError: the hosts were not started as parts of one run.
    """
    self._deadline = time.monotonic() + timeout_secs
    self._start(self._open()).result()
    while not self._all_here.wait(1.0):
      if self._refused:
        raise errors.ConfigError(self._refused)
      if time.monotonic() > self._deadline:
        raise errors.HostError(f"After {timeout_secs:.0f} s {self._missing()}.")
      on_wait(self._missing())
    self._start(self._beats())

  def send(self, message: Message, *, origin: int | None = None) -> None:
    """Sends a message to all other hosts without waiting. Safe in any thread."""
    origin = self.index if origin is None else origin
    line = _line({**message, "from": origin})

    def write() -> None:
      for host, writer in self._writers.items():
        if host != origin:
          writer.write(line)

    self._loop.call_soon_threadsafe(write)

  def close(self) -> None:
    """Says goodbye and ends the thread; no loss is reported from here on."""
    self._closing = True
    self.send({"kind": "bye"})
    self._start(self._drain()).result()
    self._loop.call_soon_threadsafe(self._end)
    self._thread.join(timeout=5.0)

  def leave(self, secs: float) -> None:
    """Waits up to `secs` until the others have the last message, before the process ends."""
    self._closing = True
    with contextlib.suppress(Exception):
      self._start(self._heard_out()).result(secs)

  def _end(self) -> None:
    # JAX's connections stay open until the process ends, and so do their tasks: asyncio would log
    # an error for each.
    for task in asyncio.all_tasks(self._loop):
      task._log_destroy_pending = False  # type: ignore[attr-defined]
    self._loop.stop()

  async def _open(self) -> None:
    raise NotImplementedError

  async def _heard_out(self) -> None:
    """Waits until the others have what was sent."""
    raise NotImplementedError

  async def _drain(self) -> None:
    for writer in list(self._writers.values()):
      with contextlib.suppress(OSError):
        await asyncio.wait_for(writer.drain(), 2.0)
        writer.close()

  def _missing(self) -> str:
    gone = [str(i) for i in range(self.count) if i not in self.names]
    more = f" and {len(gone) - 8} more" if len(gone) > 8 else ""
    return f"{len(gone)} of {self.count} hosts are missing: host {', '.join(gone[:8])}{more}"

  def _start(self, work: Coroutine[Any, Any, Any]) -> futures.Future[Any]:
    return asyncio.run_coroutine_threadsafe(work, self._loop)

  async def _listen(self, host: int, reader: asyncio.StreamReader) -> None:
    """Takes what comes through the connection to `host` until it breaks."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
      while line := await reader.readline():
        if host in self._heard:
          self._heard[host] = time.monotonic()
        message = _read(line)
        if message.get("kind") == "bye":
          self._heard.pop(host, None)
        elif message.get("kind") != "beat":
          self._take(host, message)
    self._writers.pop(host, None)
    if host in self._heard:
      self._lose(host, "its connection broke: the process, or its machine, has ended")

  def _take(self, host: int, message: Message) -> None:
    """Handles a message that came through the connection to `host`."""
    raise NotImplementedError

  async def _beats(self) -> None:
    """Sends heartbeats, and reports hosts whose heartbeats have stopped."""
    self._heard = dict.fromkeys(self._heard, time.monotonic())
    while not self._closing:
      self.send({"kind": "beat"})
      await asyncio.sleep(BEAT_SECS)
      now = time.monotonic()
      for host, heard in list(self._heard.items()):
        if now - heard > SILENT_SECS:
          self._lose(host, f"nothing was heard of it for {now - heard:.0f} s")

  def _lose(self, host: int, why: str) -> None:
    self._heard.pop(host, None)
    if not self._closing:
      self.on_lost(host, why)


class Hub(Channel):
  """Host 0's end: it accepts the others on the coordinator's `port` and relays their messages."""

  def __init__(self, port: int, count: int, name: str):
    super().__init__(0, count, name)
    self._port = port
    self.jax_port = free_port()

  async def _open(self) -> None:
    try:
      server = await asyncio.start_server(self._accept, None, self._port, limit=_MAX_LINE_BYTES)
    except OSError as e:
      raise errors.HostError(
        f"Host 0 cannot listen on port {self._port} of {self.names[0]}, where the other hosts"
        f" look for it: {e.strerror or e}. Is another run using it? Name another port in"
        " JAX_COORDINATOR_ADDRESS (or in JAX_COORDINATOR_PORT)."
      ) from None
    self._servers.append(server)
    self._look_around()

  async def _heard_out(self) -> None:
    while self._writers:  # Each host ends when it has heard; host 0 is the last.
      await asyncio.sleep(0.1)

  def _missing(self) -> str:
    return f"{super()._missing()} (host 0 waits for them on {self.names[0]}, port {self._port})"

  def _look_around(self) -> None:
    """Sends the names of the hosts that are here; all go on when they are complete."""
    self.send({"kind": "here", "names": {str(i): name for i, name in self.names.items()}})
    if len(self.names) == self.count:
      self._heard = dict.fromkeys(self._writers, time.monotonic())
      self._all_here.set()

  async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
      hello = _read(await reader.readline())
    except (OSError, ValueError):
      writer.close()
      return
    if hello.get("kind") == "relay":
      await _pipe_to(("127.0.0.1", self.jax_port), reader, writer)
      writer.close()
      return
    if problem := self._unfit(hello):
      writer.write(_line({"from": 0, "kind": "refused", "why": problem}))
      await writer.drain()
      writer.close()
      return
    host: int = hello["host"]
    self.names[host] = str(hello["name"])[:200]
    self._writers[host] = writer
    self._look_around()
    await self._listen(host, reader)
    if not self._all_here.is_set():
      self.names.pop(host, None)  # It gave up, or is started again.

  def _take(self, host: int, message: Message) -> None:
    self.on_message(host, message)
    if not message.get("private"):
      self.send(message, origin=host)

  def _unfit(self, hello: Message) -> str:
    host, count = hello.get("host"), hello.get("count")
    if hello.get("kind") != "hello" or hello.get("version") != _VERSION:
      return "Host 0 runs another version of paligemma_jax; install the same one on all hosts."
    if count != self.count:
      return (
        f"Host {host} was started as one of {count} hosts, host 0 as one of {self.count}; start"
        " all with the same number (JAX_NUM_PROCESSES, or the launcher's number of tasks)."
      )
    if not isinstance(host, int) or not 0 < host < self.count:
      return f"{host!r} is no number of a host; expected 1 to {self.count - 1}."
    if host in self.names:
      return (
        f"Host {host} is there already ({self.names[host]}); each host needs a number of its own"
        " (JAX_PROCESS_ID). Or is an earlier start of this run still there?"
      )
    return ""


class Spoke(Channel):
  """The end of every other host; `address` is (name, port) of host 0."""

  def __init__(self, address: tuple[str, int], index: int, count: int, name: str):
    super().__init__(index, count, name)
    self._address = address
    self._trouble = ""

  async def _open(self) -> None:
    relay = await asyncio.start_server(self._relay, "127.0.0.1", 0)
    self._servers.append(relay)
    self.jax_port = relay.sockets[0].getsockname()[1]
    self._start(self._connect())

  async def _heard_out(self) -> None:
    await self._drain()
    await asyncio.sleep(1.0)

  def _missing(self) -> str:
    if self._writers:
      return super()._missing()
    where = f"{self._address[0]} port {self._address[1]}"
    return f"host 0 cannot be reached at {where} ({self._trouble or 'no answer'})"

  async def _connect(self) -> None:
    hello = dict(kind="hello", version=_VERSION, host=self.index, count=self.count)
    hello["name"] = self.names[self.index]
    while not (self._all_here.is_set() or self._refused or time.monotonic() > self._deadline):
      try:
        reader, writer = await asyncio.open_connection(*self._address, limit=_MAX_LINE_BYTES)
      except OSError as e:
        self._trouble = e.strerror or str(e)
        await asyncio.sleep(_RETRY_SECS)
        continue
      writer.write(_line(hello))
      self._writers[0] = writer
      await self._listen(0, reader)
      await asyncio.sleep(_RETRY_SECS)

  def _take(self, host: int, message: Message) -> None:
    kind = message.get("kind")
    if kind == "here":
      self.names = {int(i): name for i, name in message["names"].items()}
      if len(self.names) == self.count:
        self._heard = {0: time.monotonic()}
        self._all_here.set()
    elif kind == "refused":
      self._refused = str(message["why"])
    else:
      self.on_message(message["from"], message)

  async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _pipe_to(self._address, reader, writer, _line({"kind": "relay"}))
    # Host 0's end broke. JAX would abort the process if this end closed, so it stays open.
    with contextlib.suppress(OSError):
      while await reader.read(_BLOCK_BYTES):
        pass
    writer.close()


def free_port() -> int:
  """An unused port of this machine."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def _line(message: Mapping[str, Any]) -> bytes:
  return json.dumps(message).encode() + b"\n"


def _read(line: bytes) -> Message:
  message = json.loads(line)
  if not isinstance(message, dict):
    raise ValueError("a message is an object")
  return message


async def _pipe_to(
  address: tuple[str, int],
  reader: asyncio.StreamReader,
  writer: asyncio.StreamWriter,
  first: bytes = b"",
) -> None:
  """Copies bytes both ways between a connection and a new one, until one of them breaks.

  Args:
    first: what the new one gets before anything else.
  """
  try:
    there_reader, there_writer = await asyncio.open_connection(*address)
  except OSError:
    return
  there_writer.write(first)
  tasks = [
    asyncio.ensure_future(_copy(reader, there_writer)),
    asyncio.ensure_future(_copy(there_reader, writer)),
  ]
  await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
  for task in tasks:
    task.cancel()
  await asyncio.wait(tasks)
  there_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
  with contextlib.suppress(OSError):
    while block := await reader.read(_BLOCK_BYTES):
      writer.write(block)
      await writer.drain()
