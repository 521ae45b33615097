"""Starts the training command as a user would, and looks at what a run left behind."""

import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from paligemma_jax.checkpoint import manifest
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.trainer import metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(config, workdir, *more):
  flags = ["--config", config, "--workdir", str(workdir), *more]
  return [sys.executable, "-m", "paligemma_jax.train", *flags]


def run(config, workdir, *more, **env):
  """The finished process; text output."""
  return subprocess.run(
    command(config, workdir, *more),
    cwd=ROOT,
    env={**os.environ, **env},
    text=True,
    capture_output=True,
    timeout=900,
    check=False,
  )


def free_port():
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def run_together(num_processes, config, workdir, *more):
  """The finished processes of one run, each with its own device, as hosts of a slice would be."""
  env = {
    "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
    "JAX_NUM_PROCESSES": str(num_processes),
  }
  with concurrent.futures.ThreadPoolExecutor(num_processes) as pool:
    started = [
      pool.submit(run, config, workdir, *more, JAX_PROCESS_ID=str(i), **env)
      for i in range(num_processes)
    ]
    return [done.result() for done in started]


def run_script(text, folder, programs=None, flags="--config.evals=none", **env):
  """The finished bash script of a page, run in the clone with `programs`, {name: text}, on PATH.

  Its `python` is this one, and adds the flags to each command. Its stderr is that of all hosts.
  """
  python = f'#!/bin/sh\nexec {sys.executable} "$@" {flags}\n'
  (folder / "bin").mkdir()
  for name, program in {"python": python, **(programs or {})}.items():
    (folder / "bin" / name).write_text(program)
    (folder / "bin" / name).chmod(0o755)
  plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COORD", "SLURM", "OMPI"))}
  path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
  return subprocess.run(
    ["bash", "-c", text],
    cwd=ROOT,
    env={**plain, "PATH": path, "JAX_PLATFORMS": "cpu", **env},
    text=True,
    capture_output=True,
    timeout=300,
    check=False,
  )


def starter(num, variables):
  """A program that starts `num` tasks of a command as a scheduler does, each with its variables.

  The variables may name the task as $i. Its exit code is that of a task that failed.
  """
  return f"""#!/bin/bash
for ((i = 0; i < {num}; i++)); do env {variables} "$@" & tasks+=($!); done
code=0
for task in "${{tasks[@]}}"; do wait $task || code=$?; done
exit $code
"""


def interrupt_at_step(step, number, config, workdir, *more):
  """Sends the signal once metrics.jsonl has reached `step`; (exit code, last step, stderr)."""
  with subprocess.Popen(
    command(config, workdir, *more), cwd=ROOT, text=True, stderr=subprocess.PIPE
  ) as process:
    while process.poll() is None and last_step(workdir) < step:
      time.sleep(0.005)
    reached = last_step(workdir)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
  return process.returncode, reached, stderr


def kill_at_step(step, config, workdir):
  """SIGKILL once metrics.jsonl has reached `step`; the last step that stood there."""
  code, reached, stderr = interrupt_at_step(step, signal.SIGKILL, config, workdir)
  assert code == -signal.SIGKILL, f"the run ended by itself with {code}: {stderr}"
  return reached


def last_step(workdir):
  lines = metrics.read(bucket.place(workdir) / "metrics.jsonl")
  return lines[-1]["step"] if lines else -1


def metric_lines(workdir):
  """The lines of metrics.jsonl as texts, without what comes from a clock."""
  text = atomic_io.read(bucket.place(workdir) / "metrics.jsonl", max_bytes=1 << 30).decode()
  lines = text.splitlines()
  kept = []
  for line in lines:
    record = json.loads(line)
    assert list(record)[-1] in metrics.TIMING_KEYS or record["step"] == 0
    kept.append(json.dumps({k: v for k, v in record.items() if k not in metrics.TIMING_KEYS}))
  return kept


def state_arrays(workdir):
  """{name: array} of everything in the newest checkpoint: step, parameters, optimizer state."""
  folder = bucket.place(workdir) / "checkpoints"
  newest = folder / str(max(manifest.steps_in(folder)))
  facts = manifest.verify_step(newest)
  return {n: np.asarray(manifest.read_one(newest / manifest.ARRAYS, n)) for n in facts["leaves"]}


def files_under(folder):
  """{relative path: bytes} of all files."""
  folder = pathlib.Path(folder)
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
