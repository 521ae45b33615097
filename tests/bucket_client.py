"""Starts a bucket store of this machine, which gs:// paths then mean, and steers it."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).resolve().parent.parent


class Client:
  """Steers a running server."""

  def __init__(self, address: str):
    self.address = address

  def plan(self, *rules: dict) -> None:
    """Sets the faults, in place of those before."""
    self._post("_plan", rules)

  def damage(self, name: str, kind: str, **more) -> None:
    self._post("_damage", {"name": name, "kind": kind, **more})

  def objects(self) -> dict:
    return json.loads(urllib.request.urlopen(f"{self.address}/_objects").read())

  def requests(self) -> list:
    return json.loads(urllib.request.urlopen(f"{self.address}/_requests").read())

  def _post(self, where: str, value) -> None:
    data = json.dumps(value).encode()
    urllib.request.urlopen(urllib.request.Request(f"{self.address}/{where}", data)).read()


_ADDRESSES = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")  # Of gcsfs and of tensorstore.


@contextlib.contextmanager
def running() -> Iterator[Client]:
  """A server in a process of its own, which this process and those that it starts take for gs://."""
  command = [sys.executable, "-m", "tests.fake_bucket"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as server:
    address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    before = dict(os.environ)
    os.environ |= dict.fromkeys(_ADDRESSES, address)
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "none"
    try:
      yield Client(address)
    finally:
      os.environ.clear()
      os.environ.update(before)
      server.kill()
