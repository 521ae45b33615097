"""Starting up: seconds from the start of the process to the first training step of the demo.

    python -m tools.bench.start --json

Runs the train command on transfers/demo.py as a user does and stops it once metrics.jsonl holds the
line of step 1. The first run fills an empty compilation cache (`ours_cold_seconds`); the others
find their programs in it. The demo scores itself before it trains; how long that takes is told
apart, `ours_evals_seconds`. `help_seconds` is the time that `--help` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from paligemma_jax.core import errors
from tools.bench import compare

_POLL_SECS = 0.01
_TRAIN = (sys.executable, "-m", "paligemma_jax.train")


def parser() -> argparse.ArgumentParser:
  """The options; `--model` is there as with the others, but the demo has a model of its own."""
  made = compare.arguments(__doc__, ())
  made.add_argument("--config", default="transfers/demo.py", help="what is started")
  made.add_argument("--timeout", type=float, default=600.0, help="seconds until it is given up")
  return made


def main() -> None:
  """Measures."""
  args = parser().parse_args()
  with tempfile.TemporaryDirectory(prefix="bench_") as folder:
    folder = pathlib.Path(folder)
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    runs = []
    for i in range(args.repeats + 1):
      runs.append(_until_first_step(args, folder / str(i), env))
      kind = "to fill the compilation cache" if i == 0 else f"{i} of {args.repeats}"
      compare.note(f"run {kind}: first step after {runs[-1]['seconds']:.2f} s")
    helped = [_help_seconds() for _ in range(args.repeats)]
  warm = {key: statistics.median(run[key] for run in runs[1:]) for key in runs[0]}
  found = {
    "name": "start",
    "config": args.config,
    "ours_seconds": round(warm["seconds"], 3),
    "ours_cpu_seconds": round(warm["cpu_seconds"], 3),
    "ours_evals_seconds": round(warm["evals"], 3),
    "ours_cold_seconds": round(runs[0]["seconds"], 3),
    "ours_peak_gb": round(warm["peak_bytes"] / 1e9, 3),
    "help_seconds": round(statistics.median(helped), 3),
    "runs": args.repeats,
    "cores": os.cpu_count(),
    "load": round(os.getloadavg()[0], 1),
  }
  compare.show(found, args.json)


def _until_first_step(
  args: argparse.Namespace, workdir: pathlib.Path, env: dict[str, str]
) -> dict[str, float]:
  """Seconds to the line of step 1, of them between the lines of step 0 and 1, and what it took.

  Raises:
    ConfigError: the run ended, or took longer than told, before its first step.
  """
  command = [*_TRAIN, "--config", args.config, "--workdir", str(workdir)]
  log = workdir.with_suffix(".log")
  start = time.perf_counter()
  with log.open("wb") as f:
    process = subprocess.Popen(command, cwd=compare.ROOT, env=env, stdout=f, stderr=f)
  reached: dict[int, float] = {}
  made = 0.0
  try:
    while 1 not in reached:
      spent = time.perf_counter() - start
      for step in _steps(workdir / "metrics.jsonl"):
        reached.setdefault(step, spent)
      if not made and (workdir / "metrics.jsonl").exists():
        made = spent  # The log is opened when the state is there, before the first evaluation.
      if process.poll() is not None or spent > args.timeout:
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise errors.ConfigError(
          f"{' '.join(command)} came to no first step in {spent:.0f} s; it said:\n{said}"
        )
      time.sleep(_POLL_SECS)
  finally:
    process.kill()
    _, _, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, 0, None)
    process.returncode = process.returncode or 0
  return {
    "seconds": reached[1],
    "evals": reached.get(0, made) - made,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_bytes": usage.ru_maxrss * 1024,
  }


def _steps(path: pathlib.Path) -> list[int]:
  """The steps that the file holds whole lines of."""
  try:
    lines = path.read_bytes().split(b"\n")[:-1]
  except FileNotFoundError:
    return []
  return [json.loads(line)["step"] for line in lines]


def _help_seconds() -> float:
  start = time.perf_counter()
  subprocess.run([*_TRAIN, "--help"], cwd=compare.ROOT, check=True, stdout=subprocess.DEVNULL)
  return time.perf_counter() - start


if __name__ == "__main__":
  errors.run_main(main)
