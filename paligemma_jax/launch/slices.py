"""A Cloud TPU slice by its name; all that is known of it is what the cloud knows."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import tempfile
from typing import Any

from paligemma_jax.core import errors

LABEL = "made-by", "paligemma-jax"  # Of slices that these commands may use and delete.
FOLDER = "paligemma_jax_run"  # In the home folder of each host: environment, log, exit code.


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice by its name; each method runs gcloud once, or prints the command."""

  name: str
  zone: str
  project: str
  dry_run: bool

  def gcloud(self, *args: str) -> list[str]:
    """The whole command, for this zone and project."""
    project = [f"--project={self.project}"] if self.project else []
    return ["gcloud", "compute", "tpus", *args, f"--zone={self.zone}", *project]

  def call(self, *args: str) -> None:
    """Runs a command whose output is for the user; HostError if it fails."""
    command = self.gcloud(*args)
    print(f"+ {shlex.join(command)}", flush=True)
    if self.dry_run:
      return
    if code := subprocess.run(command, check=False, env=_environment()).returncode:
      raise errors.HostError(f"gcloud ended with {code}; its message is above.")

  def ask(self, *args: str) -> Any:
    """The JSON that a command prints; None where what it is about does not exist."""
    command = [*self.gcloud(*args), "--format=json"]
    if self.dry_run:
      return None
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment())
    if done.returncode == 0:
      return json.loads(done.stdout or "null")
    if "NOT_FOUND" in done.stderr or "was not found" in done.stderr:
      return None
    raise errors.HostError(f"{shlex.join(command)} failed: {' '.join(done.stderr.split())[-500:]}")

  def state(self) -> str:
    """READY, CREATING, PREEMPTED, …, as the cloud has it; '' where there is no such slice.

    Raises:
      ConfigError: it is somebody else's.
    """
    found = self.ask("tpu-vm", "describe", self.name) or {}
    self._check_ours(found)
    return str(found.get("state", ""))

  def request_state(self) -> str:
    """That of the queued request: ACCEPTED, WAITING_FOR_RESOURCES, FAILED, …; '' without one.

    Raises:
      ConfigError: it is somebody else's.
    """
    found = self.ask("queued-resources", "describe", self.name) or {}
    for spec in found.get("tpu", {}).get("nodeSpec", []):
      self._check_ours(spec.get("node", {}))
    return str(found.get("state", {}).get("state", ""))

  def _check_ours(self, node: dict[str, Any]) -> None:
    """Refuses to touch, and to delete, what was created in another way."""
    key, value = LABEL
    if node and node.get("labels", {}).get(key) != value:
      raise errors.ConfigError(
        f"{self.name} in {self.zone} was not created by `paligemma-jax tpu` (it lacks the label"
        f" {key}={value}): use another NAME."
      )

  def on_hosts(self, command: str) -> list[str]:
    """The gcloud command that runs a shell command on all hosts."""
    return self.gcloud("tpu-vm", "ssh", self.name, "--worker=all", f"--command={command}")

  def ssh(self, command: str) -> None:
    """Runs a shell command on all hosts; HostError if it fails on one."""
    self.call("tpu-vm", "ssh", self.name, "--worker=all", f"--command={command}")

  def send(self, name: str, data: bytes) -> None:
    """Writes a file into the folder of the run on all hosts."""
    target = f"{self.name}:{FOLDER}/{name}"
    with tempfile.TemporaryDirectory() as folder:
      file = pathlib.Path("" if self.dry_run else folder) / name
      if not self.dry_run:
        file.write_bytes(data)
      self.call("tpu-vm", "scp", str(file), target, "--worker=all")

  def started(self, command: list[str]) -> subprocess.Popen[bytes]:
    """A command in a process group of its own: what it starts ends with it, and Ctrl-C is ours."""
    return subprocess.Popen(command, env=_environment(), start_new_session=True)

  def output(self, command: list[str]) -> str:
    """What the command prints, whether or not it fails on some hosts."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment())
    return done.stdout


def _environment() -> dict[str, str]:
  """Our environment without what is for our Python alone: gcloud is a Python program, too."""
  return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
