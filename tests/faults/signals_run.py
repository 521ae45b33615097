"""Stops a run by signals at 15 moments, each by SIGTERM and by SIGINT, and says what became of it.

    python -m tests.faults.signals_run [--jobs 2] [--only eval] [--go_on]

Right is: exit code 75 within 30 s of the signal, the newest saved state intact and of the last step
that was finished, or no step finished; or exit code 0 when all was done before it was heard. A
second signal ends the process at once. A run that does not come to the moment is not right either,
and gets no signal. --go_on also goes on with each run to its end and compares its metrics with
those of a run that nobody stopped.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from paligemma_jax.checkpoint import manifest
from tests import run_train

CONFIG = "tests/faults/slow_config.py"
LIMIT_SECS = 30.0
NUM_STEPS = 6
_START_SECS = 400.0


@dataclasses.dataclass(frozen=True)
class Moment:
  """When a signal comes: `secs` after a line of the log, or at a fault point in the process.

  slow: value of SLOW. arguments: of the config. fault: 'point', with '@visit'.
  kill_first: the run is killed there once before, so that the signal meets one that goes on.
  """

  after: str = ""
  secs: float = 0.0
  slow: str = ""
  arguments: str = ""
  fault: str = ""
  second: bool = False
  kill_first: str = ""


MOMENTS = {
  "import": Moment(secs=0.5),
  "start": Moment(after="initial weights"),
  "evaluation at step 0": Moment(after="rows checked", secs=1.0, slow="eval"),
  "compiling": Moment(after="device\\(s\\)", secs=0.7, arguments="evaluate=0"),
  "step": Moment(after="step 2/"),
  "data stall": Moment(after="step 3/", secs=2.0, slow="train", arguments="evaluate=0"),
  "evaluation, a row": Moment(after="step 3/", secs=1.0, slow="eval"),
  "evaluation, the score": Moment(after="step 3/", secs=2.0, slow="score"),
  "evaluation, state saved": Moment("step 3/", 1.0, slow="eval", arguments="save=3 steps"),
  "evaluation, going on": Moment(
    after="going on from step 3",
    secs=2.0,
    slow="score",
    arguments="save=3 steps",
    kill_first="step 3/",
  ),
  "save": Moment(fault="state.after_arrays@1", arguments="save=2 steps"),
  "last save": Moment(fault="state.after_arrays@2", arguments="save=3 steps"),
  "line of metrics": Moment(fault="metrics.before_append@3"),
  "report": Moment(fault="metrics.after_append@7"),
  "second signal": Moment(after="step 3/", secs=1.0, slow="eval", second=True),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a run: its exit code, seconds since the signal, last finished and saved step.

  met: whether the run came to the moment; without, it got no signal.
  """

  met: bool
  code: int
  secs: float
  finished: int
  saved: int
  expected: int
  text: str

  @property
  def is_right(self) -> bool:
    saved = self.saved >= self.finished or self.expected != os.EX_TEMPFAIL
    is_done = self.code == 0 and self.saved == NUM_STEPS and "\nreport: " in self.text
    ended = self.code == self.expected or (is_done and self.expected == os.EX_TEMPFAIL)
    return self.met and ended and self.secs < LIMIT_SECS and saved


def stop(name: str, number: signal.Signals, workdir: pathlib.Path) -> Outcome:
  """Runs the training and sends the signal at the moment."""
  moment, met = MOMENTS[name], True
  if moment.kill_first:
    with _started(moment, workdir) as process:
      met = _seen(process, workdir, moment.kill_first)
      end = time.monotonic() + LIMIT_SECS
      while not newest_intact(workdir) and time.monotonic() < end:
        time.sleep(0.1)  # The state of that step is written beside the evaluation.
      process.kill()
  fault = ""
  if moment.fault:
    point, _, visit = moment.fault.partition("@")
    fault = f"{point}:{number.name.lower()}@{visit}"
  elif moment.second:
    fault = "state.before_arrays:sleep"  # The first signal is taken, and nothing comes of it.
  with _started(moment, workdir, PJ_FAULT=fault) as process:
    if fault and not moment.second:
      met = _seen(process, workdir, f"{number.name}: stopping") and met
    else:
      _heard(process)
      met = _seen(process, workdir, moment.after) and met
      time.sleep(moment.secs)
      met = process.poll() is None and met
      if met:
        process.send_signal(number)
    begin = time.monotonic()
    if moment.second and met:
      time.sleep(2.0)
      begin = time.monotonic()
      process.send_signal(number)
    try:
      process.wait(2 * LIMIT_SECS if met else 0)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGABRT)  # The log then says where each thread was.
    code, secs = process.wait(), time.monotonic() - begin
  finished = max(map(int, re.findall(r"^step (\d+)/", _text(workdir), re.MULTILINE)), default=0)
  expected = 128 + number if moment.second else os.EX_TEMPFAIL
  return Outcome(met, code, secs, finished, newest_intact(workdir), expected, _text(workdir))


def newest_intact(workdir: pathlib.Path) -> int:
  """The newest saved step, which must be intact; 0 for none."""
  folder = workdir / "checkpoints"
  newest = max(manifest.steps_in(folder), default=0) if folder.is_dir() else 0
  if newest:
    manifest.verify_step(folder / str(newest))
  return newest


def go_on(name: str, workdir: pathlib.Path) -> list[str]:
  """Ends the run with nothing slow; its lines of metrics, without what comes from a clock."""
  done = run_train.run(_config(MOMENTS[name]), workdir)
  assert done.returncode == 0, done.stderr
  return run_train.metric_lines(workdir)


def _config(moment: Moment) -> str:
  return f"{CONFIG}:{moment.arguments}" if moment.arguments else CONFIG


def _started(moment: Moment, workdir: pathlib.Path, **env: str) -> subprocess.Popen:
  with open(f"{workdir}.log", "wb") as log:
    return subprocess.Popen(
      run_train.command(_config(moment), workdir),
      cwd=run_train.ROOT,
      stdout=log,
      stderr=log,
      env={**os.environ, "PYTHONFAULTHANDLER": "1", "SLOW": moment.slow, **env},
    )


def _seen(process: subprocess.Popen, workdir: pathlib.Path, pattern: str) -> bool:
  """Waits for a line of the log; False when the process ended without it."""
  end = time.monotonic() + _START_SECS
  while not re.search(pattern, _text(workdir)):
    if process.poll() is not None or time.monotonic() > end:
      return False
    time.sleep(0.05)
  return True


def _heard(process: subprocess.Popen) -> None:
  """Waits until the process has come so far that a signal no longer ends it as any program."""
  bit = 1 << (signal.SIGTERM - 1)
  while process.poll() is None:
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)", status, re.MULTILINE)
    if any(int(mask, 16) & bit for mask in masks):
      return
    time.sleep(0.01)


def _text(workdir: pathlib.Path) -> str:
  return pathlib.Path(f"{workdir}.log").read_text(errors="replace")


def main() -> None:
  """Prints a line for each case and what they come to; exits with 1 when one is not right."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--jobs", type=int, default=2)
  parser.add_argument("--only", default="", help="moments whose name holds this")
  parser.add_argument("--go_on", action="store_true")
  args = parser.parse_args()
  names = [name for name in MOMENTS if args.only in name]
  with (
    tempfile.TemporaryDirectory() as folder,
    concurrent.futures.ThreadPoolExecutor(args.jobs) as pool,
  ):
    root = pathlib.Path(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "cache"))
    cases = [(name, n) for name in names for n in (signal.SIGTERM, signal.SIGINT)]
    places = {case: root / f"{i}" for i, case in enumerate(cases)}
    found = pool.map(lambda case: stop(*case, places[case]), cases)
    wrong = 0
    whole: dict[str, list[str]] = collections.defaultdict(list)
    for (name, number), outcome in zip(cases, found, strict=True):
      logged = ""
      if args.go_on:
        arguments = MOMENTS[name].arguments
        if not whole[arguments]:
          whole[arguments] = go_on(name, root / f"whole {name}")
        same = go_on(name, places[name, number]) == whole[arguments]
        logged = "same metrics" if same else "OTHER METRICS"
        wrong += not same
      wrong += not outcome.is_right
      print(
        f"{name:26}{number.name:9}exit {outcome.code:4} {outcome.secs:5.1f} s  finished"
        f" {outcome.finished} saved {outcome.saved}  {logged}"
        f"{'' if outcome.is_right else 'NOT RIGHT'}{'' if outcome.met else ': MOMENT NOT MET'}",
        flush=True,
      )
      if not outcome.is_right:
        print(outcome.text[-8000:], flush=True)
    print(f"{len(cases)} cases, {wrong} not right")
  sys.exit(bool(wrong))


if __name__ == "__main__":
  main()
