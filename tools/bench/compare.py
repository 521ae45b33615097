"""The comparison: two processes that take turns, medians, and one JSON line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from paligemma_jax.core import errors
from tools.bench import models

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# What a baseline's Python must be able to import.
PACKAGES = {
  "transformers": ("torch", "transformers"),
  "keras_hub": ("jax", "keras", "keras_hub", "safetensors"),
}


# On the CPU an accelerator would serve only some of the sides. On a GPU one side must not take all
# memory at its start, or the other would find none.
ENVIRONMENT = {
  "cpu": {"JAX_PLATFORMS": "cpu"},
  "gpu": {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}


@dataclasses.dataclass
class Side:
  """A running side and what it has said.

  Attributes:
    facts: what it says of itself.
    seconds, cpu_seconds: of each run, wall clock and processor.
    answers: of the run that warmed it up, then of each run.
    peak_bytes: the largest memory, resident of its process or taken of the GPU; known after `end`.
  """

  name: str
  process: subprocess.Popen
  facts: dict[str, Any]
  seconds: list[float] = dataclasses.field(default_factory=list)
  cpu_seconds: list[float] = dataclasses.field(default_factory=list)
  answers: list[Any] = dataclasses.field(default_factory=list)
  peak_bytes: int = 0

  def run(self) -> None:
    """One timed run."""
    said = _ask(self, "run")
    self.seconds.append(said["seconds"])
    self.cpu_seconds.append(said["cpu_seconds"])
    self.answers.append(said["answer"])

  def end(self) -> None:
    """Ends the process."""
    self.peak_bytes = _ask(self, "end")["peak_bytes"]
    self.process.wait()

  @property
  def median_seconds(self) -> float:
    """Of its runs."""
    return statistics.median(self.seconds)

  @property
  def median_cpu_seconds(self) -> float:
    """Of its runs."""
    return statistics.median(self.cpu_seconds)


@contextlib.contextmanager
def started(
  name: str, module: str, *args: str, python: str = sys.executable, device: str = "cpu"
) -> Iterator[Side]:
  """Starts `python -m module args` and waits until it is ready; it is gone afterwards.

  Args:
    device: "cpu", or "gpu", whose memory sides then share.

  Raises:
    ConfigError: the side ended before it was ready, as it does when a package is missing.
  """
  command = [python, "-m", module, *args]
  note(f"{name}: starting")
  env = {**os.environ, **ENVIRONMENT[device]}
  process = subprocess.Popen(
    command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  side = Side(name, process, {})
  try:
    start = time.perf_counter()
    said = _reply(side)
    side.facts = said["ready"]
    side.answers.append(said["answer"])
    note(f"{name}: ready and warm after {time.perf_counter() - start:.1f} s")
    yield side
  finally:
    if process.poll() is None:
      process.kill()
    process.communicate()


def take_turns(sides: Sequence[Side], repeats: int) -> None:
  """Each side runs once, then each again, as often as told; then they end."""
  for i in range(repeats):
    for side in sides:
      side.run()
    took = ", ".join(f"{side.name} {side.seconds[-1]:.3f} s" for side in sides)
    note(f"run {i + 1} of {repeats}: {took}")
  for side in sides:
    side.end()


def compared(
  name: str, args: argparse.Namespace, passed: Sequence[str], *, extra: Sequence[Side] = ()
) -> tuple[Side, Side | None]:
  """Our side and the baseline's (None without one) after their runs, in turns with `extra`.

  Args:
    name: of the benchmark; its sides are the modules NAME_ours and NAME_RIVAL beside it.
    args: what `arguments` parsed.
    passed: the command line of both sides.
    extra: further sides, already started.
  """
  module = f"tools.bench.{name}"
  with contextlib.ExitStack() as stack:
    device = getattr(args, "device", "cpu")
    ours = stack.enter_context(started("paligemma_jax", f"{module}_ours", *passed, device=device))
    baseline = None
    if args.against:
      name, python = args.against, args.baseline_python
      side = started(name, f"{module}_{name}", *passed, python=python, device=device)
      baseline = stack.enter_context(side)
    sides = [ours] if baseline is None else [ours, baseline]
    take_turns([*sides, *extra], args.repeats)
  return ours, baseline


@contextlib.contextmanager
def written_weights(
  model: str, dtype: str = "float32", *, kept: str = ""
) -> Iterator[pathlib.Path]:
  """Random weights of the model, which both sides read; gone afterwards with their folder.

  Args:
    kept: a folder that they are written to, or read from if it is there; it stays.
  """
  from tools.bench import weights  # Not at the top: a baseline's Python reads this file too.

  if kept:
    path = pathlib.Path(kept)
    yield path if path.exists() else weights.write(model, path.parent, dtype, name=path.name)
    return
  with tempfile.TemporaryDirectory(prefix="bench_") as folder:
    yield weights.write(model, pathlib.Path(folder), dtype)


def options(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
  """These options as a side's command line."""
  return [f"--{name}={getattr(args, name)}" for name in names]


def check_baseline(args: argparse.Namespace, more: Sequence[str] = ()) -> None:
  """Raises ConfigError when the baseline is not installed, before anything is made for it.

  Args:
    more: modules that the baseline must have beside those of `PACKAGES`.
  """
  if not args.against:
    return
  needed = (*PACKAGES[args.against], *more)
  code = (
    "import importlib.util as u, sys;"
    "print(*[name for name in sys.argv[1:] if u.find_spec(name) is None])"
  )
  try:
    done = subprocess.run(
      [args.baseline_python, "-c", code, *needed], capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError) as e:
    raise errors.ConfigError(
      f"--baseline_python={args.baseline_python!r} does not run: {e}."
    ) from e
  if missing := done.stdout.split():
    raise errors.ConfigError(
      f"--against={args.against} needs {', '.join(missing)}, which {args.baseline_python} does not"
      " have: pip install -r requirements/bench.txt, here or in an environment of its own whose"
      " Python you then give as --baseline_python."
    )


def note(text: str) -> None:
  """A line on stderr about where the benchmark stands."""
  print(text, file=sys.stderr, flush=True)


def result(name: str, ours: Side, baseline: Side | None, **more: Any) -> dict[str, Any]:
  """What a benchmark prints; ratios are ours / baseline, those of seconds of the medians.

  On a machine that others use too, `cpu_ratio` says more than `ratio`.
  """
  found: dict[str, Any] = {"name": name, "ours_seconds": round(ours.median_seconds, 4)}
  if baseline is not None:
    found |= {
      "baseline": baseline.name,
      "baseline_seconds": round(baseline.median_seconds, 4),
      "ratio": round(ours.median_seconds / baseline.median_seconds, 4),
      "cpu_ratio": round(ours.median_cpu_seconds / baseline.median_cpu_seconds, 4),
      "peak_ratio": round(ours.peak_bytes / baseline.peak_bytes, 4),
    }
  for side, prefix in ((ours, "ours"), (baseline, "baseline")):
    if side is not None:
      found[f"{prefix}_peak_gb"] = round(side.peak_bytes / 1e9, 3)
      found[f"{prefix}_cpu_seconds"] = round(side.median_cpu_seconds, 4)
      found[f"{prefix}_facts"] = side.facts
  load = round(os.getloadavg()[0], 1)
  return {**found, "runs": len(ours.seconds), "cores": os.cpu_count(), "load": load, **more}


def show(found: dict[str, Any], as_json: bool) -> None:
  """Prints the result: one JSON line, or a line for people."""
  if as_json:
    print(json.dumps(found), flush=True)
    return
  text = f"{found['name']}: {found['ours_seconds']:.3f} s, {found['ours_peak_gb']:.2f} GB"
  if "baseline" in found:
    text += (
      f"; {found['baseline']}: {found['baseline_seconds']:.3f} s, {found['baseline_peak_gb']:.2f}"
      f" GB; ratio {found['ratio']:.3f}"
    )
  print(text, flush=True)


def arguments(doc: str, baselines: Sequence[str]) -> argparse.ArgumentParser:
  """The options that all benchmarks have."""
  parser = argparse.ArgumentParser(
    description=doc.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
  )
  parser.add_argument("--model", default="mid", choices=sorted(models.MODELS), help="its size")
  parser.add_argument("--against", default="", choices=("", *baselines), help="'' runs ours alone")
  parser.add_argument("--json", action="store_true", help="print one JSON line")
  parser.add_argument("--repeats", type=int, default=5, help="runs of each side, in turns")
  parser.add_argument(
    "--baseline_python",
    default=sys.executable,
    help="the Python of an environment that has the baseline",
  )
  return parser


def add_device(parser: argparse.ArgumentParser) -> None:
  """The options of benchmarks that can run on a GPU too."""
  parser.add_argument(
    "--device", default="cpu", choices=sorted(ENVIRONMENT), help="where both sides run"
  )
  parser.add_argument(
    "--dtype", default="float32", choices=("float32", "bfloat16"), help="of the computation"
  )


def _ask(side: Side, word: str) -> dict[str, Any]:
  side.process.stdin.write(f"{word}\n")
  side.process.stdin.flush()
  return _reply(side)


def _reply(side: Side) -> dict[str, Any]:
  line = side.process.stdout.readline()
  if not line:
    raise errors.ConfigError(
      f"The side {side.name!r} ended with exit code {side.process.wait()}; what it said is above."
      " A baseline is installed with `pip install -r requirements/bench.txt`."
    )
  return json.loads(line)
