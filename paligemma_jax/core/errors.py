"""Errors with their exit codes, and the translation of those of the system and of JAX."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from paligemma_jax.core import process

T = TypeVar("T")

# Limits on the names of a file in messages: a file may hold millions, of any length.
_MOST_COMPARED, _MOST_LETTERS, _MOST_LISTED = 1000, 1000, 500
_END_SECS = 5.0
_TIDY_SECS = 2.0
_EX_PIPE = 128 + signal.SIGPIPE  # As a shell says it of a program that this signal ended.


class PaligemmaError(Exception):
  """One sentence for the user: where, what was found, what was expected, the remedy.

  `exit_code` is that of a command which this error ends.
  """

  exit_code = 1

  def __init_subclass__(cls, exit_code: int = 0, **options: Any):
    super().__init_subclass__(**options)
    cls.exit_code = exit_code or cls.exit_code


class ConfigError(PaligemmaError, exit_code=os.EX_CONFIG):  # 78
  """A key, value, regex, file or combination of settings that cannot be run."""


class DataError(PaligemmaError, exit_code=os.EX_DATAERR):  # 65
  """Rows or a data file that are worse than the configured budget allows."""


class CheckpointError(PaligemmaError, exit_code=os.EX_CONFIG):  # 78
  """Weights that are missing or damaged, or that do not fit the model."""


class StateError(PaligemmaError, exit_code=os.EX_IOERR):  # 74
  """Training state that cannot be written, or has no intact copy left."""


class WorkdirError(PaligemmaError, exit_code=os.EX_CANTCREAT):  # 73
  """A workdir that is locked by another run or cannot be written."""


class NumericsError(PaligemmaError, exit_code=os.EX_SOFTWARE):  # 70
  """Loss or gradients stayed non-finite for longer than the policy allows."""


class StallError(PaligemmaError, exit_code=os.EX_NOINPUT):  # 66
  """No more input: a worker or a thread died, or does not answer."""


class HostError(PaligemmaError, exit_code=os.EX_UNAVAILABLE):  # 69
  """Another host of the run is missing, died, or stopped answering."""


class OutOfMemoryError(PaligemmaError, exit_code=os.EX_OSERR):  # 71
  """The device or the host has less memory than the program needs."""


class CompilerError(PaligemmaError, exit_code=os.EX_SOFTWARE):  # 70
  """The compiler crashed or took too long."""


class Interrupted(PaligemmaError, exit_code=os.EX_TEMPFAIL):  # 75
  """A signal stopped the run and its state is saved; the same command resumes it."""


def near(key: str, options: Iterable[str], n: int = 3) -> list[str]:
  """Up to `n` of the first thousand options that are most like `key`, best first."""
  texts = [str(o) for o in itertools.islice(options, _MOST_COMPARED)]
  return difflib.get_close_matches(str(key)[:_MOST_LETTERS], texts, n=n, cutoff=0.5)


def did_you_mean(key: str, options: Iterable[str]) -> str:
  """` Did you mean 'x'?`, or the list of the options when none is near."""
  options = sorted(str(o) for o in options)
  if not options:
    return ""
  close = near(key, options)
  if close:
    return " Did you mean " + " or ".join(repr(c) for c in close) + "?"
  more = f", … ({len(options)} in all)" if len(options) > _MOST_LISTED else ""
  return " Known: " + ", ".join(repr(o) for o in options[:_MOST_LISTED]) + more + "."


def pick(table: Mapping[str, T], key: str, what: str) -> T:
  """`table[key]`, or a ConfigError that names `what`, the key and the near matches."""
  try:
    return table[key]
  except (KeyError, TypeError):
    raise ConfigError(f"Unknown {what} {key!r}.{did_you_mean(key, table)}") from None


@contextlib.contextmanager
def within(place: str) -> Iterator[None]:
  """A DataError of the block gets the name of its place, such as a column."""
  try:
    yield
  except DataError as e:
    raise DataError(f"{place}: {e}") from None


def code_and_text(error: BaseException) -> tuple[int, str]:
  """The exit code and the message of a command that `error` ends.

  The code is 1 for a bug of ours or of the user's code, whose traceback is to be shown.
  """
  if isinstance(error, Exception):
    error = translated(error) or error
  if isinstance(error, PaligemmaError):
    cause = error.__cause__
    is_news = isinstance(cause, PaligemmaError) and str(cause) not in str(error)
    return error.exit_code, f"{error}\n  because: {cause}" if is_news else str(error)
  if isinstance(error, KeyboardInterrupt):
    return 130, "interrupted from the keyboard."
  if isinstance(error, SystemExit):
    return (error.code if isinstance(error.code, int) else 1), "the process was asked to exit."
  return 1, f"{type(error).__name__}: {error}"


def run_main(main: Callable[..., Any], *args: Any) -> NoReturn:
  """Runs `main(*args)` and exits: 0, or one sentence on stderr and the error's exit code.

  A reader of stdout that has closed it, as `head` does, ends the command in silence, with 141. The
  process ends even when one of its threads or workers never does: it waits 5 s for them, and not
  at all after a StallError or when work was left in the background.
  """
  code = 1
  try:
    main(*args)
    sys.stdout.flush()
    code = os.EX_OK
  except SystemExit as e:
    code, _ = code_and_text(e)
    raise
  except (Exception, KeyboardInterrupt) as e:
    if isinstance(e, BrokenPipeError) and _is_unread():
      code = _EX_PIPE
      sys.exit(code)
    code, text = code_and_text(e)
    if code == 1:
      raise
    print(f"error: {text}", file=sys.stderr, flush=True)
    if code == StallError.exit_code or process.is_at_work():
      _end_now(code, _Tidy())
  finally:
    if _is_unread():  # Or Python would fail to write what is left when it ends.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # Both threads now: from 3.12 on Python starts none when its main one has ended.
    end = (code, _Tidy())
    threading.Thread(target=_end_late, args=end, name="ending", daemon=True).start()
  sys.exit(code)


def _is_unread() -> bool:
  """Whether stdout is a pipe whose reader has closed it."""
  try:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
  except (OSError, ValueError):  # It is no file, or closed.
    return False


def _end_late(code: int, tidy: _Tidy) -> None:
  """Ends the process 5 s after its main thread, should Python still wait for others."""
  threading.main_thread().join()
  time.sleep(_END_SECS)
  _end_now(code, tidy)


def _end_now(code: int, tidy: _Tidy) -> NoReturn:
  """Ends the process and its children without waiting for threads."""
  import multiprocessing  # Here, since it takes 10 ms.

  for child in multiprocessing.active_children():
    child.kill()
  tidy.up()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)


class _Tidy:
  """A thread that waits to release semaphores, so that Python prints no warning about them."""

  def __init__(self):
    self._go = threading.Event()
    self._thread = threading.Thread(target=self._run, name="tidy", daemon=True)
    self._thread.start()

  def up(self) -> None:
    """Releases them within 2 s, since a dead worker may block it."""
    self._go.set()
    self._thread.join(timeout=_TIDY_SECS)

  def _run(self) -> None:
    self._go.wait()
    import multiprocessing.util

    multiprocessing.util._exit_function()  # type: ignore[attr-defined]  # Has no public name.


_FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "the disk quota is used up"}
_DENIED = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP,
    errno.ESTALE, errno.EISDIR, errno.ENOTDIR,
}  # fmt: skip
_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|OUT_OF_MEMORY|[Oo]ut of memory|bad_alloc")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+) ?([KMGT]?)i?(?:B|bytes?|\b)"
_ASKED = rf"[Aa]llocat\w*\D{{0,60}}?{_SIZE}"
_NEEDED = rf"[Uu]sed {_SIZE}"
_LIMIT = rf"[Uu]sed [\d.]+[KMGT]? of {_SIZE}"
_MESSAGE_LEN = 240


def translated(
  error: BaseException, *, remedies: Sequence[str] = (), memory_bytes: int = 0
) -> PaligemmaError | None:
  """The error, or its cause, as one of ours: a full disk, too little memory; None for others.

  `remedies` are against too little memory on the device, the cheapest first; it has `memory_bytes`,
  0 is unknown.
  """
  if isinstance(error, PaligemmaError):
    return error
  chain = list(_chain(error))
  for e in chain:
    if why := full_disk(e):
      name = f" {e.filename!r}" if isinstance(e, OSError) and e.filename else ""
      return StateError(f"A file{name} cannot be written: {why}. Free some.")
  for e in chain:
    if isinstance(e, MemoryError):
      return OutOfMemoryError(
        f"This machine ran out of memory ({_shortened(str(e)) or 'MemoryError'}). What helps: fewer"
        " workers and threads of the loader, smaller batches, or a machine with more memory."
      )
    if type(e).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and _OUT_OF_MEMORY.search(str(e)):
      return _out_of_memory(str(e), remedies, memory_bytes)
  for e in chain:
    if isinstance(e, OSError) and e.errno in _DENIED and e.filename:
      denied = f"{e.filename!r} cannot be used: {e.strerror}."
      return WorkdirError(denied) if e.errno == errno.EROFS else StateError(denied)
  return None


def full_disk(error: BaseException) -> str:
  """'no space left on the disk' or the like, also from a library's message; '' for others."""
  if isinstance(error, OSError) and error.errno in _FULL:
    return _FULL[error.errno]
  texts = {"No space left on device": errno.ENOSPC, "Disk quota exceeded": errno.EDQUOT}
  return next((_FULL[number] for text, number in texts.items() if text in str(error)), "")


def gib(num_bytes: float) -> str:
  return f"{num_bytes / 2**30:.2f} GiB"


def _out_of_memory(message: str, remedies: Sequence[str], memory_bytes: int) -> PaligemmaError:
  limit = _bytes(_LIMIT, message) or memory_bytes
  facts = [f"it has {gib(limit)}"] if limit else []
  if needed := _bytes(_NEEDED, message):
    facts.append(f"the program needs {gib(needed)}")
  elif asked := _bytes(_ASKED, message):
    facts.append(f"{gib(asked)} more were asked for")
  found = f": {', '.join(facts)}" if facts else ""
  helps = f" What helps, the cheapest first: {'; '.join(remedies)}." if remedies else ""
  first = _shortened(message.partition("\n")[0])
  return OutOfMemoryError(f"The device ran out of memory{found}.{helps} JAX said: {first!r}")


def _bytes(pattern: str, message: str) -> int:
  found = re.search(pattern, message)
  return round(float(found[1].strip(".") or 0) * _UNITS[found[2]]) if found else 0


def _shortened(message: str) -> str:
  return " ".join(message.split())[:_MESSAGE_LEN]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """The error and its causes, the outermost first."""
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
