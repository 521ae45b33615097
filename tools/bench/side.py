"""One side of a comparison, in a process of its own: it does its task once per line it is sent.

The protocol, one JSON object per line: {"ready": …, "answer": …} when everything is set up and
warm; for each "run" {"seconds": …, "cpu_seconds": …, "answer": …}; for "end" {"peak_bytes": …}.
What else the side prints, libraries included, goes to stderr.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(
  prepare: Callable[[], tuple[dict[str, Any], Callable[[], Any]]],
  after: Callable[[], None] = lambda: None,
  gpu_peak: Callable[[], int] | None = None,
) -> None:
  """Speaks the protocol until it is told to end.

  Args:
    prepare: returns facts on this side (versions, settings) and the task, which is timed. The task
      is done once before "ready", untimed, so that compiling does not count. What it returns must
      be JSON data, ready on the host.
    after: cleans up after each time the task was done; not timed.
    gpu_peak: the most bytes of the GPU taken so far, asked where the side was told --device=gpu.
  """
  replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

  def reply(content):
    print(json.dumps(content), file=replies, flush=True)

  start = time.perf_counter()
  facts, task = prepare()
  prepared = time.perf_counter()
  answer = task()
  warm = time.perf_counter()
  after()
  took = {"setup_seconds": round(prepared - start, 3), "first_seconds": round(warm - prepared, 3)}
  reply({"ready": {**facts, **took}, "answer": answer})
  for line in sys.stdin:
    if line.strip() == "end":
      break
    start, start_cpu = time.perf_counter(), time.process_time()
    answer = task()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    after()
    reply({"seconds": seconds, "cpu_seconds": cpu, "answer": answer})
  peak = gpu_peak if "--device=gpu" in sys.argv else peak_bytes
  reply({"peak_bytes": peak()})


def peak_bytes() -> int:
  """The largest resident memory of this process so far (Linux)."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024
  raise RuntimeError("no VmHWM in /proc/self/status")


def jax_peak() -> int:
  """The most bytes that arrays and programs took of JAX's first device so far."""
  import jax

  return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]


def best_cpu_seconds(task: Callable[[], Any], times: int = 3) -> float:
  """The least processor time of a few runs, after one to warm up."""
  task()
  found = []
  for _ in range(times):
    start = time.process_time()
    task()
    found.append(time.process_time() - start)
  return min(found)
