"""Measures programs in a process of its own, which a crash of the compiler may end.

That process is this module again, with an environment for the compiler, which is read when JAX is
imported: {"jobs": […], "config_files": {module: file}} on stdin, a line of JSON per job on stdout.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections

from paligemma_jax.config import config_file
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.planning import targets

_ROOT = pathlib.Path(__file__).resolve().parents[2]

# They stand in for the TPU VM that the compiler looks for; the last allows two processes at a time.
_TPU_ENV = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Without a GPU no kernels can be timed, and Triton does not compile large matmuls untimed.
_CUDA_ENV = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
_CUDA_FLAGS = "--xla_gpu_enable_triton_gemm=false"

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


def job(
  config: ml_collections.ConfigDict,
  on: str,
  *,
  hosts: int = 0,
  frames: int = 0,
  num_supervised: int = 0,
  compiled: bool = True,
) -> dict[str, Any]:
  """A job for `ask`; see `targets.get` and `program.measure`.

  Rows, ops and evaluators play no part in the step.
  """
  plain = {**config.to_dict(), "evals": (), "init": "", "tokenizer": ""}
  plain["train"] = {**plain["train"], "source": None, "pp": ()}
  return {
    "config": specs.to_json(plain),
    "on": on,
    "hosts": hosts,
    "frames": frames,
    "num_supervised": num_supervised,
    "compiled": compiled,
  }


def ask(
  jobs: Sequence[dict[str, Any]], on: str, *, effort: float, timeout_secs: float
) -> list[dict[str, Any]]:
  """What `program.measure` found for each job, or {"refused": why} for an invalid one.

  Args:
    on: the target, the same for all jobs.
    effort: of the compiler: 0 is its default, -1 several times faster with about the same memory.
    timeout_secs: for all jobs; as much again for those after a crash.

  Raises:
    CompilerError: the process died or took too long.
  """
  done, answers = _run(jobs, on, effort, timeout_secs)
  if effort < 0 and len(answers) < len(jobs) and -done.returncode in _CRASHES:
    # At low effort the TPU compiler crashes on a few programs that it compiles at its default.
    done, rest = _run(jobs[len(answers) :], on, 0.0, timeout_secs)
    answers += rest
  if done.returncode or len(answers) != len(jobs):
    raise errors.CompilerError(_death(on, done))
  return answers


def _run(
  jobs: Sequence[dict[str, Any]], on: str, effort: float, timeout_secs: float
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
  """The finished process, and the answers that it printed."""
  try:
    done = subprocess.run(
      [sys.executable, "-m", "paligemma_jax.planning.runs"],
      input=json.dumps({"jobs": list(jobs), "config_files": config_file.ran()}),
      env=_environment(targets.get(on), effort),
      capture_output=True,
      text=True,
      timeout=timeout_secs,
      check=False,
    )
  except subprocess.TimeoutExpired:
    raise errors.CompilerError(
      f"Compiling for {on} took more than {timeout_secs:.0f} s; give it more with --timeout."
    ) from None
  return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _environment(target: targets.Target, effort: float) -> dict[str, str]:
  env = dict(os.environ)
  env["PYTHONPATH"] = os.pathsep.join(p for p in (str(_ROOT), env.get("PYTHONPATH", "")) if p)
  if target.platform == "local":
    return env
  env["JAX_PLATFORMS"] = "cpu"
  # Its entries could be written but not read back without the device.
  env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
  if effort:
    env["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] = str(effort)
  if target.platform == "tpu":
    return {**_TPU_ENV, **env}
  env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {_CUDA_FLAGS}".strip()
  return {**env, **_CUDA_ENV}


def _death(on: str, done: subprocess.CompletedProcess[str]) -> str:
  lines = [line for line in done.stderr.splitlines() if line.strip()]
  last = lines[-1][:300] if lines else "it printed nothing"
  if done.returncode < 0:
    how = f"was killed by signal {-done.returncode}"
    how += " (this machine may have run out of memory)" if done.returncode == -9 else ""
  else:
    how = f"ended with code {done.returncode}"
  return f"The compiler for {on} {how}: {last}"


def _main() -> None:
  asked = json.load(sys.stdin)
  config_file.find_again(asked["config_files"])
  for job in asked["jobs"]:
    try:
      found = _measured(**job)
    except errors.ConfigError as e:
      found = {"refused": str(e)}
    print(json.dumps(found), flush=True)


def _measured(config: Any, on: str, hosts: int, **size: Any) -> dict[str, Any]:
  from paligemma_jax.planning import program

  # The process that started this one has loaded it, with the user's consent where needed.
  plain = specs.from_json(config, allow_code=True)
  loaded = configs.from_plain(plain, "the configuration")
  configs.import_code(loaded)
  return program.measure(loaded, targets.get(on, hosts), **size)


if __name__ == "__main__":
  _main()
