"""One side of a comparison, in a process of its own: it does its task once per line it is sent.

The protocol, one JSON object per line: {"ready": …} when everything is set up and warm; for each
"run" {"seconds": …, "answer": …}; for "end" {"peak_bytes": …}. What else the side prints, libraries
included, goes to stderr.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[[], Any]]]) -> None:
  """Speaks the protocol until it is told to end.

  Args:
    prepare: returns facts on this side (versions, settings) and the task, which is timed. The task
      is done once before "ready", untimed, so that compiling does not count. What it returns must
      be JSON data, ready on the host.
  """
  replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

  def reply(content):
    print(json.dumps(content), file=replies, flush=True)

  start = time.perf_counter()
  facts, task = prepare()
  prepared = time.perf_counter()
  task()
  warm = time.perf_counter()
  reply({"ready": {**facts, "setup_seconds": prepared - start, "first_seconds": warm - prepared}})
  for line in sys.stdin:
    if line.strip() == "end":
      break
    start, start_cpu = time.perf_counter(), time.process_time()
    answer = task()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    reply({"seconds": seconds, "cpu_seconds": cpu, "answer": answer})
  reply({"peak_bytes": peak_bytes()})


def peak_bytes() -> int:
  """The largest resident memory of this process so far (Linux)."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024
  raise RuntimeError("no VmHWM in /proc/self/status")
