"""Damaged inputs for every reader of files from strangers.

    python -m tests.faults.fuzz --inputs 20000 --seed 0

Each input is a small valid one with something changed, made again from (--seed, reader, number).
It must end in a value or in one of our own errors, within 5 seconds of processor time and 512 MB
over idle, with nothing opened outside of its folder, no socket, no other program and no module of
the folder. A line per reader, and exit code 1 when anything fell short.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import random
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from typing import TextIO

from tests.faults import mutations
from tests.faults import readers
from tests.faults import run_readers

READERS = readers.READERS | run_readers.READERS
SECS, MEGABYTES = 5.0, 512
_HANG_SECS = 30.0  # By the clock, beyond which a reader waits for something that never comes.
_PER_WORKER = 500  # Inputs, so that what libraries keep does not add up.
_MINE = b"a file of the user\n"
_SENT = "import pathlib\npathlib.Path('ran').touch()\n\n\nclass X:\n  __is_spec__ = None\n"


def main() -> None:
  """Shares the inputs out among the readers and prints what came of them."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--inputs", type=int, default=20_000, help="in all, over all readers")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--readers", nargs="*", default=sorted(READERS), choices=sorted(READERS))
  parser.add_argument("--jobs", type=int, default=2, help="processes at once")
  parser.add_argument("--number", type=int, help="only this input, here, with its traceback")
  parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    _work(args.readers[0], args.seed, range(int(args.work[0]), int(args.work[1])), args.work[2])
    return
  if args.number is not None:
    with tempfile.TemporaryDirectory() as folder:
      _one(_Place(args.readers[0], pathlib.Path(folder)), args.seed, args.number, loud=True)
    return
  each = -(-args.inputs // len(args.readers))
  print(f"{each} inputs for each of {len(args.readers)} readers, seed {args.seed}", flush=True)
  with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    done = list(pool.map(lambda name: _of_reader(name, args.seed, each), args.readers))
  num_bad = sum(map(len, done))
  print(f"{each * len(args.readers)} inputs: {num_bad} violations", flush=True)
  sys.exit(1 if num_bad else 0)


def _of_reader(name: str, seed: int, num: int) -> list[str]:
  """Runs a reader's inputs in worker processes, prints its line, gives back its violations."""
  seen, bad, secs, megabytes, start = collections.Counter(), [], 0.0, 0.0, 0
  while start < num:
    for i, result in _results(name, seed, start, min(start + _PER_WORKER, num)):
      start = i + 1
      seen[result["outcome"]] += 1
      secs, megabytes = max(secs, result["secs"]), max(megabytes, result["megabytes"])
      bad += [f"{name} --number {i}: {violation}" for violation in result["violations"]]
  errors_ = ", ".join(f"{n} {what}" for what, n in sorted(seen.items()) if what != "value")
  print(
    f"{name}: {num} inputs, {seen['value']} values, {errors_}; worst {secs:.2f} s,"
    f" {megabytes:.0f} MB over idle; {len(bad)} violations",
    flush=True,
  )
  for violation in bad[:20]:
    print(f"  {violation}", flush=True)
  return bad


def _results(name: str, seed: int, start: int, stop: int):
  """(number, result) of one worker's inputs; the last one may have killed it."""
  with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
    command = [sys.executable, "-m", "tests.faults.fuzz", "--readers", name, "--seed", str(seed)]
    command += ["--work", str(start), str(stop), folder]
    log = open(os.path.join(folder, "log"), "w+b")
    worker = subprocess.Popen(
      command,
      cwd=readers.ROOT,
      stdout=subprocess.PIPE,
      stderr=log,
      start_new_session=True,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
      yield from _lines(worker, start, stop, log)
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
      worker.wait()
      worker.stdout.close()
      log.close()


def _lines(worker, start, stop, log):
  at, wait = start, 300.0  # The first wait is for imports and for the valid input.
  rest = b""
  while at < stop:
    ready = select.select([worker.stdout], [], [], wait)[0]
    data = os.read(worker.stdout.fileno(), 1 << 16) if ready else b""
    if not data:
      what = f"did not end within {wait:.0f} s" if not ready else f"exit code {worker.wait()}"
      log.seek(0)
      tail = log.read()[-300:].decode(errors="replace").strip().replace("\n", " | ")
      if wait != _HANG_SECS:
        raise RuntimeError(f"a worker cannot begin: {what}: {tail}")
      yield at, _result(f"the process died: {what}", violations=[f"{what}: {tail}"])
      return
    *lines, rest = (rest + data).split(b"\n")
    wait = _HANG_SECS
    for line in lines:
      if line != b"ready":
        yield at, json.loads(line)
        at += 1


def _result(outcome, secs=0.0, megabytes=0.0, violations=()):
  return dict(outcome=outcome, secs=secs, megabytes=megabytes, violations=list(violations))


def _work(name: str, seed: int, numbers: range, folder: str) -> None:
  """A worker: one line of JSON per input on the standard output."""
  place, out = begun(name, folder)
  print("ready", file=out)
  for number in numbers:
    print(json.dumps(_one(place, seed, number)), file=out)


class _Place:
  """The folder of a worker: the valid input, the one that is tried, and what nobody may touch."""

  def __init__(self, name: str, above: pathlib.Path, reader: readers.Reader | None = None):
    self.name, self.reader = name, reader or READERS[name]
    self.valid, self.above, self.outside = above / "valid", above / "in", above / "outside"
    self.input = self.above / "input"
    for folder in (self.valid, self.above, self.outside):
      folder.mkdir()
    (self.outside / "mine").write_bytes(_MINE)
    self.reader.make(self.valid)
    self.names = sorted(
      str(p.relative_to(self.valid)) for p in self.valid.rglob("*") if p.is_file()
    )
    os.chdir(self.above)
    sys.path.insert(0, str(self.above))
    self.watch = _Watch(self.above)

  def fresh(self) -> None:
    """The valid input in place of the last one."""
    for path in (self.above / "input", self.above / "ran"):
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)
    shutil.copytree(self.valid, self.input)
    (self.above / "sent.py").write_text(_SENT)


def begun(name: str, folder: str) -> tuple[_Place, TextIO]:
  """The place of a worker, which has read the valid input, and where its lines go."""
  out = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # What libraries print goes to the log.
  place = _Place(name, pathlib.Path(folder).resolve())
  place.fresh()
  place.reader.read(place.input, place.names)  # The valid one: it must give a value.
  soft = _status("VmSize") * 1024 + (4 << 30)
  resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
  return place, out


def _one(place: _Place, seed: int, number: int, loud: bool = False) -> dict:
  """Makes the input and reads it."""
  rng = random.Random(f"{seed}/{place.name}/{number}")
  place.fresh()
  reader = place.reader
  changed = rng.sample(place.names, min(rng.choice((1, 1, 1, 2)), len(place.names)))
  for name in changed:
    path = place.input / name
    if rng.random() < 0.03:
      mutations.trap(str(path), str(place.outside / "mine"), rng)
    else:
      path.write_bytes(reader.change(name, path.read_bytes(), rng))
  if reader.repair and rng.random() < 0.8:
    reader.repair(place.input, changed)
  return tried(place, changed, loud)


def tried(place: _Place, changed: list[str], loud: bool = False) -> dict:
  """Reads the input that lies there: what came of it, what it took, and what it must not do."""
  from paligemma_jax.core import errors

  logged = ""
  violations = []
  with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # The peak begins anew.
  idle, wall, cpu = _status("VmRSS"), time.monotonic(), time.process_time()
  with place.watch:
    try:
      place.reader.read(place.input, changed)
      outcome = "value"
    except errors.PaligemmaError as e:
      outcome, logged = type(e).__name__, str(e)
      if not 10 <= len(str(e)):
        violations.append(f"an error without a reason: {e}")
      if loud:
        print(f"{outcome}: {e}")
    except BaseException as e:
      outcome = f"{type(e).__name__} of others"
      frame = traceback.extract_tb(e.__traceback__)[-1]
      violations.append(f"{type(e).__name__}: {str(e)[:150]} ({frame.filename}:{frame.lineno})")
      if loud:
        traceback.print_exc()
  # Other processes make the clock late, several threads the processor's time long.
  secs = min(time.monotonic() - wall, time.process_time() - cpu)
  megabytes = max(0, _status("VmHWM") - idle) / 1024
  violations += sorted(set(place.watch.seen))
  if secs > SECS:
    violations.append(f"it took {secs:.1f} s")
  if megabytes > MEGABYTES:
    violations.append(f"it took {megabytes:.0f} MB")
  if "sent" in sys.modules or (place.above / "ran").exists():
    violations.append("code of the input ran")
    sys.modules.pop("sent", None)
  if [p.name for p in place.outside.iterdir()] != ["mine"] or (
    (place.outside / "mine").read_bytes() != _MINE
  ):
    violations.append("something was written through a link")
    (place.outside / "mine").write_bytes(_MINE)
  if loud:
    print(changed, secs, megabytes, violations)
  return _result(outcome, secs, megabytes, violations) | {"said": logged}


class _Watch:
  """Sees what is opened outside of a folder, sockets and other programs, while a block runs."""

  _EVENTS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.")
  _LIBRARY = tuple(
    os.path.realpath(path) + "/"
    for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, readers.ROOT}
  )
  _SYSTEM = ("/proc/", "/sys/", "/dev/urandom", "/dev/null", "/usr/lib/", "/lib/", "/lib64/")

  def __init__(self, folder: pathlib.Path):
    self.seen: list[str] = []
    self._folder = f"{folder}/"
    self._on = False
    sys.addaudithook(self._hook)

  def __enter__(self):
    self.seen.clear()
    self._on = True

  def __exit__(self, *_):
    self._on = False

  def _hook(self, event, args):
    if not self._on:
      return
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
      self._opened(os.path.abspath(os.fsdecode(args[0])), args[2])
    elif event == "socket.__new__" and args[1] == socket.AF_UNIX:
      pass  # A pair of an event loop with itself; one that connects is seen below.
    elif event.startswith("socket.") and event != "socket.gethostname":
      self.seen.append(f"a socket: {event} {args[1:]}")
    elif event.startswith(self._EVENTS):
      self.seen.append(f"{event} {args[:2]}")

  def _opened(self, path, flags):
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if f"{path}/".startswith(self._folder):
      with contextlib.suppress(OSError, ValueError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
          self.seen.append(f"a pipe or a device was opened: {path.removeprefix(self._folder)}")
    elif writes or not path.startswith((*self._LIBRARY, *self._SYSTEM)):
      self.seen.append(f"opened {path}" + (" for writing" if writes else ""))


def _status(field: str) -> int:
  """A number of kilobytes of this process."""
  with open("/proc/self/status", encoding="ascii") as f:
    return next(int(line.split()[1]) for line in f if line.startswith(f"{field}:"))


if __name__ == "__main__":
  main()
