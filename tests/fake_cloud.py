"""The parts of Google's TPU and Compute APIs that gcloud asks for slices, on this machine.

A slice has a host for every four chips, or one host with eight. The `ssh` and `scp` on PATH run a
host's commands in a mount namespace where its folder is the home, and no other host's is seen.
POST /_state sets what the cloud does to a slice.

    python -m tests.fake_cloud     prints the port
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any, ClassVar

from tests import json_server

_SSH = """#!{python}
# ssh runs a command on the host that the address names, scp copies a file into its home folder.
import os, re, shutil, subprocess, sys
host = re.search("@10[.]0[.]0[.]([0-9]+)", " ".join(sys.argv))[1]
own = os.path.join({hosts!r}, host)
os.makedirs(own, exist_ok=True)
if os.path.basename(sys.argv[0]) == "scp":
  source, target = sys.argv[-2:]
  shutil.copy(source, os.path.join(own, target.partition(":")[2]))
  sys.exit(0)
env = dict(os.environ, HOME={home!r}, TMPDIR={home!r}, JAX_PROCESS_ID=host)
env["PATH"] = {programs!r} + "/host:" + env["PATH"]
command = " ".join(sys.argv[sys.argv.index("--") + 1:])
mounts = 'mount --bind "$0" {home} && mount -t tmpfs none {hosts} && cd {home} && '
inside = ["unshare", "--mount", "sh", "-c", mounts + 'exec bash -c "$1"', own, command]
sys.exit(subprocess.run(inside, env=env).returncode)
"""
# What a host's own Python is asked for: uv, an environment, the package that was sent.
_PYTHON3 = """#!{python}
import os, sys
args = sys.argv[1:]
if args[:3] == ["-m", "uv", "venv"]:
  os.makedirs(args[-1] + "/bin")
  with open(args[-1] + "/bin/python", "w") as f:
    f.write("#!/bin/sh\\nPYTHONPATH=$HOME/paligemma_jax_run/source exec {python} \\"$@\\"\\n")
  os.chmod(args[-1] + "/bin/python", 0o755)
elif args[:4] == ["-m", "uv", "pip", "install"]:
  folder = args[-1].partition("[")[0]
  assert os.path.exists(folder + "/pyproject.toml"), args
else:
  assert args == ["-m", "pip", "install", "-q", "--user", "uv"], args
"""
_HOSTNAME = "#!/bin/sh\necho t1v-n-0-w-$JAX_PROCESS_ID\n"


class Handler(json_server.Handler):
  """Answers for one project."""

  lock = threading.Lock()
  nodes: ClassVar[dict[str, dict[str, Any]]] = {}
  queue: ClassVar[dict[str, dict[str, Any]]] = {}
  requests: ClassVar[list[str]] = []

  def answer(self) -> None:
    method = self.command
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    value = json.loads(body) if body else {}
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    with self.lock:
      if not url.path.startswith("/_"):
        self.requests.append(f"{method} {url.path}{'?' + url.query if url.query else ''}")
      status, result = self._do(method, url.path, query, value)
    self.send(status, json.dumps(result).encode(), {"Content-Type": "application/json"})

  def _do(self, method, path, query, value) -> tuple[int, Any]:
    if path == "/_state":
      self.nodes[value["name"]]["state"] = value["state"]
      return 200, {}
    if path == "/_requests":
      return 200, self.requests
    if "/operations/" in path:
      where = path.partition("/v2/")[2]
      node = f"{where.partition('/operations/')[0]}/nodes/{where.rpartition('.')[2]}"
      return 200, {"name": where, "done": True, "response": {"name": node}}
    found = re.search(
      r"(projects/[^/]+/locations/[^/]+)/(nodes|queuedResources)(?:/([^/:]+))?", path
    )
    if found:
      return self._resource(method, query, value, *found.groups())
    if re.search(r"/projects/[^/]+$", path):  # Compute's, for keys of ssh.
      return 200, {"name": "p", "commonInstanceMetadata": {"items": []}}
    if path.endswith("setCommonInstanceMetadata"):
      return 200, {"name": "op", "status": "DONE", "selfLink": f"http://{self.headers['Host']}/op"}
    return 200, {"name": "op", "status": "DONE"}

  def _resource(self, method, query, value, where, kind, name) -> tuple[int, Any]:
    table = self.nodes if kind == "nodes" else self.queue
    about = name or query.get("nodeId") or query.get("queuedResourceId")
    operation = {"name": f"{where}/operations/{len(self.requests)}.{about}", "done": False}
    if method == "POST" and name is None:
      if kind == "nodes":
        self._make(where, query["nodeId"], value)
      else:
        name = query["queuedResourceId"]
        spec = value["tpu"]["nodeSpec"][0]
        table[name] = {
          **value,
          "name": f"{where}/queuedResources/{name}",
          "state": {"state": "ACTIVE"},
        }
        self._make(where, spec["nodeId"], spec["node"])
      return 200, operation
    if method == "GET" and name is None:
      return 200, {kind: list(table.values())}
    if name not in table:
      error = {"code": 404, "status": "NOT_FOUND", "message": f"{kind} {name} was not found"}
      return 404, {"error": error}
    if method == "DELETE":
      del table[name]
      if kind == "queuedResources":
        self.nodes.pop(name, None)
      return 200, operation
    if method == "PATCH":
      table[name] |= value
      return 200, operation
    if method == "POST":  # getGuestAttributes, where hosts say their keys.
      items = [{"namespace": "hostkeys", "key": "ssh-ed25519", "value": "AAAA0123456789012345"}]
      said = {"queryValue": {"items": items}}
      return 200, {"guestAttributes": [said for _ in table[name]["networkEndpoints"]]}
    return 200, table[name]

  def _make(self, where: str, name: str, value: dict[str, Any]) -> None:
    chips = int(value["acceleratorType"].rpartition("-")[2])
    hosts = 1 if chips <= 8 else chips // 4
    ends = [
      {"ipAddress": f"10.0.0.{i}", "accessConfig": {"externalIp": f"10.0.0.{i}"}}
      for i in range(hosts)
    ]
    about = {"name": f"{where}/nodes/{name}", "id": "1", "apiVersion": "V2", "health": "HEALTHY"}
    self.nodes[name] = {**value, **about, "state": "READY", "networkEndpoints": ends}


class Cloud:
  """Steers a running server."""

  def __init__(self, address: str, hosts: pathlib.Path):
    self.address = address
    self.hosts = hosts  # Has the folder of each host, by its number.

  def set_state(self, name: str, state: str) -> None:
    value = {"name": name, "state": state}
    json_server.ask(f"{self.address}/_state", json.dumps(value).encode())

  def requests(self) -> list[str]:
    return json.loads(json_server.ask(f"{self.address}/_requests"))

  def preempt(self, name: str) -> None:
    """Takes the slice away: the processes of its hosts are killed, and their disks are empty."""
    self.set_state(name, "PREEMPTED")
    own = f"FAKE_CLOUD={self.address}".encode()
    for process in pathlib.Path("/proc").iterdir():
      with contextlib.suppress(OSError):
        found = (process / "environ").read_bytes().split(b"\0") if process.name.isdecimal() else []
        if own in found and b"JAX_PROCESS_ID" in {word.partition(b"=")[0] for word in found}:
          os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(self.hosts)


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Cloud]:
  """A server in a process of its own, which gcloud asks in place of Google while the block runs."""
  programs, hosts, home = folder / "bin", folder / "hosts", folder / "home"
  (programs / "host").mkdir(parents=True)
  home.mkdir()
  names = dict(python=sys.executable, hosts=str(hosts), home=str(home), programs=str(programs))
  ssh = _SSH.format(**names)
  host = {"python3": _PYTHON3.format(**names), "hostname": _HOSTNAME}
  for name, text in {"ssh": ssh, "scp": ssh, **{f"host/{n}": t for n, t in host.items()}}.items():
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)
  with json_server.running("tests.fake_cloud") as address:
    os.environ |= {
      "FAKE_CLOUD": address,
      "PATH": f"{programs}:{os.environ['PATH']}",
      "HOME": str(folder),
      "CLOUDSDK_CONFIG": str(folder / "gcloud"),
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"{address}/",
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{address}/compute/v1/",
      "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
      "CLOUDSDK_CORE_PROJECT": "p",
      "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
      "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
    }
    yield Cloud(address, hosts)


if __name__ == "__main__":
  json_server.serve(Handler)
