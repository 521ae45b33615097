"""Cloud TPU slices by gcloud: create, install, train, logs, status, stop, delete; `run` is all.

  paligemma-jax tpu run vqa --type v5litepod-16 --zone us-west4-a --spot \\
      -- --config transfers/vqav2.py --workdir gs://my-bucket/runs/vqav2

`run` creates the slice, installs this package on all hosts, starts the training command on each,
and shows their logs. When the slice is preempted, it creates a new one, and the run goes on from
the bucket. In the end it deletes the slice, so that nothing is left that costs. Each of these steps
is a command of its own. All that is known of a slice is what the cloud knows of its NAME.

--dry_run prints the gcloud commands in place of running them. Arguments after `--` are those of
`paligemma-jax train`; config files that they name are copied to the hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.launch import payload
from paligemma_jax.launch import slices

# The runtime of each kind of chip: https://cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
  "v4": "tpu-ubuntu2204-base",
  "v5litepod": "v2-alpha-tpuv5-lite",
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}
_POLL_SECS = 15.0
_INTERRUPTED, _HOST_LOST = errors.Interrupted.exit_code, errors.HostError.exit_code
_KILLED = 128 + signal.SIGKILL
_MOST_RESTARTS = 3  # On one slice; there is no limit to new slices.
_HELPS = {
  "run": "create, install and train, again after each preemption; delete in the end",
  "create": "create the slice, or take the one of this name, and wait until it is ready",
  "install": "install the package on all hosts",
  "train": "start the training command on all hosts, where it goes on by itself",
  "logs": "follow the logs of all hosts until the training command ends",
  "status": "say how the slice is, and how the training command is on each host",
  "stop": "let the training command save its state and end",
  "delete": "delete the slice and its queued request",
}


def parser() -> argparse.ArgumentParser:
  found = command_line.plain_parser("tpu", __doc__ or "")
  verbs = found.add_subparsers(dest="verb", required=True, metavar="WHAT")
  for verb, text in _HELPS.items():
    sub = verbs.add_parser(verb, help=text, description=f"{text}.", allow_abbrev=False)
    sub.add_argument("name", metavar="NAME", help="of the slice")
    sub.add_argument("--zone", required=True, help="as us-west4-a")
    sub.add_argument("--project", default="", help="default: that of gcloud")
    sub.add_argument("--dry_run", action="store_true", help="print the gcloud commands")
    if verb in ("run", "create"):
      sub.add_argument("--type", required=True, help="kind and size, as v5litepod-8 or v6e-16")
      sub.add_argument("--version", default="", help="of the runtime (default: that of the type)")
      spot = "cheaper, and may be preempted; waits in the queue for capacity"
      sub.add_argument("--spot", action="store_true", help=spot)
      sub.add_argument("--queued", action="store_true", help="wait in the queue for capacity")
    if verb in ("run", "install"):
      package = f"what pip installs, as '{payload.EXTRAS} @ git+URL' (default: what runs here)"
      sub.add_argument("--package", default="", help=package)
    if verb == "run":
      sub.add_argument("--keep", action="store_true", help="do not delete the slice in the end")
      emit = "print a SkyPilot task or an XPK command that does the same, and do nothing"
      sub.add_argument("--emit", choices=("skypilot", "xpk"), help=emit)
  return found


def create(tpu: slices.Slice, args: argparse.Namespace) -> None:
  """Creates the slice, or asks for it in the queue, and waits until it is ready."""
  runtime = _runtime(args)
  options = [f"--labels={'='.join(slices.LABEL)}"]
  options += ["--spot"] if args.spot else []
  state = tpu.state()
  if _is_gone(state):
    delete(tpu)
    state = ""
  if state:
    print(f"{tpu.name} is there already, and {state}", flush=True)
  elif args.spot or args.queued:
    if tpu.request_state() in ("FAILED", "SUSPENDED"):
      delete(tpu)
    if not tpu.request_state():
      tpu.call(
        "queued-resources", "create", tpu.name, f"--node-id={tpu.name}",
        f"--accelerator-type={args.type}", f"--runtime-version={runtime}", *options,
      )  # fmt: skip
  else:
    tpu.call(
      "tpu-vm", "create", tpu.name, f"--accelerator-type={args.type}", f"--version={runtime}",
      *options,
    )  # fmt: skip
  while not tpu.dry_run and (state := tpu.state()) != "READY":
    request = tpu.request_state()
    if _is_gone(state) or request in ("FAILED", "SUSPENDED"):
      raise errors.HostError(
        f"{tpu.name} is {state or request} before it was ready: gcloud compute tpus"
        f" queued-resources describe {tpu.name} --zone={tpu.zone} says why."
      )
    print(f"{tpu.name} is {state or request or 'not there yet'}", flush=True)
    time.sleep(_POLL_SECS)


def install(tpu: slices.Slice, package: str) -> None:
  """Installs the package with a Python of its own in a folder of each host."""
  package, unpack = package or payload.this_package(), ""
  tpu.ssh(f"mkdir -p {slices.FOLDER}")
  if pathlib.Path(package).is_dir():
    tpu.send("source.tar.gz", payload.source(pathlib.Path(package)))
    unpack = " && rm -rf source && mkdir source && tar xzf source.tar.gz -C source"
    package = "./source[tpu,gs]"
  tpu.ssh(
    f"cd {slices.FOLDER}{unpack} && python3 -m pip install -q --user uv"
    " && { test -d venv || python3 -m uv venv -q --python 3.12 venv; }"
    f" && python3 -m uv pip install -q --python venv/bin/python {shlex.quote(package)}"
  )


def train(tpu: slices.Slice, rest: Sequence[str]) -> None:
  """Starts the command on all hosts; it goes on when the connection ends.

  gcloud runs a command again when a connection breaks: while one is running none is started.
  """
  unpack = ""
  if files := payload.files_of(rest):
    tpu.send("files.tar.gz", payload.archive(pathlib.Path(), files))
    unpack = "tar xzf files.tar.gz && "
  command = shlex.join(["venv/bin/python", "-m", "paligemma_jax.train", *rest])
  start = f"{command} > log 2>&1 & echo $! > pid; wait $!; echo $? > exit_code"
  tpu.ssh(
    f"cd {slices.FOLDER} && {unpack}if flock -n lock rm -f pid exit_code; then"
    f" setsid -f flock -n lock bash -c {shlex.quote(start)} < /dev/null > /dev/null 2>&1; fi;"
    " until test -s pid; do sleep 0.1; done"
  )


def follow(tpu: slices.Slice) -> list[int] | None:
  """Shows what all hosts log, each line with its host's name, until the command has ended.

  Returns:
    Its exit code on each host; None where the slice is gone.
  """
  num_lines = "+1"
  while True:
    command = tpu.on_hosts(
      f"cd {slices.FOLDER} && tail -n {num_lines} -F --pid=$(cat pid) log"
      " | sed -u s/^/$(hostname):\\ /"
    )
    if tpu.dry_run:
      print(f"+ {shlex.join(command)}")
      return [0]
    with tpu.started(command) as shown:
      try:
        while _still_runs(shown, _POLL_SECS):
          if tpu.state() != "READY":  # A connection to a host that is gone may hang for long.
            return None
      finally:
        if shown.poll() is None:
          os.killpg(shown.pid, signal.SIGTERM)
    if tpu.state() != "READY":
      return None
    codes = exit_codes(tpu)
    if codes and None not in codes:
      return [code for code in codes if code is not None]
    num_lines = "0"  # The connection broke.
    time.sleep(1.0)


def exit_codes(tpu: slices.Slice) -> list[int | None]:
  """How the command ended on each host that answers; None where it runs."""
  command = tpu.on_hosts(
    f"cd {slices.FOLDER} && if test -s exit_code; then echo ended=$(cat exit_code);"
    f" elif kill -0 $(cat pid); then echo ended=; else echo ended={_KILLED}; fi"
  )
  found = [word[6:] for word in tpu.output(command).split() if word.startswith("ended=")]
  return [int(text) if text.isdecimal() else None for text in found]


def stop(tpu: slices.Slice) -> None:
  """Asks the command on all hosts to save its state and to end."""
  tpu.ssh(f"cd {slices.FOLDER} && {{ test -s exit_code || kill -TERM $(cat pid); }}")


def delete(tpu: slices.Slice) -> None:
  """Deletes the slice and its request in the queue, if they are there."""
  if tpu.dry_run or tpu.request_state():
    tpu.call("queued-resources", "delete", tpu.name, "--force", "--quiet")
  if tpu.dry_run or tpu.state():
    tpu.call("tpu-vm", "delete", tpu.name, "--quiet")


def status(tpu: slices.Slice) -> None:
  """Prints how the slice is, and how the command is on each host."""
  if tpu.dry_run:
    print(f"+ {shlex.join(tpu.gcloud('tpu-vm', 'describe', tpu.name))}")
    return
  state = tpu.state() or tpu.request_state()
  print(f"{tpu.name}: {state or 'there is no such slice'}")
  if state == "READY":
    for i, code in enumerate(exit_codes(tpu)):
      print(f"host {i}: {'running' if code is None else f'ended with {code}'}")


def run(tpu: slices.Slice, args: argparse.Namespace) -> int:
  """`create`, `install`, `train`, `logs`, again after each preemption; the exit code of the run."""

  def interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt

  signal.signal(signal.SIGTERM, interrupt)  # Or the slice would stay, and cost.
  restarts = 0
  try:
    while True:
      create(tpu, args)
      codes = None
      try:
        if tpu.dry_run or None not in exit_codes(tpu):  # Or it was started by another terminal.
          install(tpu, args.package)
          train(tpu, args.rest)
        codes = follow(tpu)
      except errors.HostError:
        if tpu.state() == "READY":
          raise
      if codes is None:
        print(f"{tpu.name} was preempted: a new slice goes on with the run", flush=True)
        restarts = 0
        continue
      code = _of_all(codes)
      if code not in (_INTERRUPTED, _HOST_LOST, _KILLED) or restarts == _MOST_RESTARTS:
        return code
      restarts += 1
      print(f"the run ended with {code}: it is started again", flush=True)
  except KeyboardInterrupt:
    if not tpu.dry_run and tpu.state() == "READY":
      print("the run saves its state and ends; Ctrl-C again does not wait for that", flush=True)
      stop(tpu)
      follow(tpu)
    raise
  finally:
    if args.keep:
      print(f"{tpu.name} was kept, and costs until it is deleted", flush=True)
    else:
      delete(tpu)


def emitted(args: argparse.Namespace) -> str:
  """The run as a SkyPilot task or as an XPK command, for fleets that these manage."""
  package = args.package or payload.this_package()
  if pathlib.Path(package).is_dir():
    if pathlib.Path(package).resolve() != pathlib.Path.cwd():
      raise errors.ConfigError(
        f"The package runs from {package}: give --package '{payload.EXTRAS} @ git+URL', or call"
        " this in that folder, which is then copied."
      )
    package = ".[tpu,gs]"
  package = shlex.quote(package)
  command = shlex.join(["-m", "paligemma_jax.train", *args.rest])
  if args.emit == "xpk":
    script = f"pip install -q uv && uv pip install -q --system {package} && python {command}"
    options = ["--spot"] if args.spot else []
    options += [f"--project={args.project}"] if args.project else []
    words = [
      "xpk workload create", f"--workload={args.name}", "--cluster=your-cluster",
      f"--tpu-type={args.type}", f"--zone={args.zone}", *options,
      "--base-docker-image=python:3.12", "--script-dir=.", "--max-restarts=100",
      f"--restart-on-exit-codes={_HOST_LOST},{_INTERRUPTED}",
      f"--command={shlex.quote(script)}",
    ]  # fmt: skip
    return " \\\n  ".join(words)
  region = args.zone.rpartition("-")[0]
  return f"""name: {json.dumps(args.name)}
workdir: .
resources:
  infra: gcp/{region}/{args.zone}
  accelerators: tpu-{args.type}
  accelerator_args:
    runtime_version: {_runtime(args)}
  use_spot: {str(args.spot).lower()}
  job_recovery:
    max_restarts_on_errors: {_MOST_RESTARTS}
    recover_on_exit_codes: [{_HOST_LOST}, {_INTERRUPTED}]
setup: |
  python3 -m pip install -q --user uv
  test -d ~/venv || python3 -m uv venv -q --python 3.12 ~/venv
  python3 -m uv pip install -q --python ~/venv/bin/python {package}
run: |
  ~/venv/bin/python {command}"""


def _runtime(args: argparse.Namespace) -> str:
  found = args.version or _RUNTIMES.get(args.type.rpartition("-")[0])
  if not found:
    known = ", ".join(f"{kind}-N" for kind in _RUNTIMES)
    raise errors.ConfigError(f"--type {args.type!r} is none of {known}; give its --version.")
  return found


def _is_gone(state: str) -> bool:
  """Whether a slice of this state is there, but never runs again."""
  return state in ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING")


def _of_all(codes: Sequence[int]) -> int:
  """One exit code of all hosts: that of the one which failed by itself, if there is one."""
  order = (0, _INTERRUPTED, _HOST_LOST, _KILLED)
  return max(codes, key=lambda code: order.index(code) if code in order else len(order))


def _still_runs(process: subprocess.Popen, secs: float) -> bool:
  try:
    process.wait(secs)
  except subprocess.TimeoutExpired:
    return True
  return False


def _check_workdir(rest: Sequence[str]) -> None:
  joined = " ".join(rest).replace("--workdir=", "--workdir ")
  workdir = joined.partition("--workdir ")[2].partition(" ")[0]
  if not bucket.is_bucket(workdir):
    raise errors.ConfigError(
      "The disks of a slice go with it: after `--`, name a bucket as in `-- --config"
      " transfers/vqav2.py --workdir gs://my-bucket/runs/vqav2`."
    )


def main(argv: Sequence[str]) -> None:
  """Does what the arguments say."""
  at = list(argv).index("--") if "--" in argv else len(argv)
  args = parser().parse_args(argv[:at])
  args.rest = list(argv[at + 1 :])
  if args.verb in ("run", "train"):
    _check_workdir(args.rest)
  elif args.rest:
    raise errors.ConfigError(f"Arguments after `--` are for run and train, not for {args.verb}.")
  if getattr(args, "emit", None):
    print(emitted(args))
    return
  if not args.dry_run and shutil.which("gcloud") is None:
    raise errors.ConfigError(
      "gcloud is not installed: https://cloud.google.com/sdk/docs/install has it; --dry_run prints"
      " the commands without it."
    )
  tpu = slices.Slice(args.name, args.zone, args.project, args.dry_run)
  actions = {
    "run": lambda: sys.exit(run(tpu, args)),
    "create": lambda: create(tpu, args),
    "install": lambda: install(tpu, args.package),
    "train": lambda: train(tpu, args.rest),
    "logs": lambda: follow(tpu),
    "status": lambda: status(tpu),
    "stop": lambda: stop(tpu),
    "delete": lambda: delete(tpu),
  }
  actions[args.verb]()


if __name__ == "__main__":
  cli.run("tpu", sys.argv[1:])
