"""Starts a bucket store of this machine, which gs:// paths then mean, and steers it."""

import contextlib
import json
import os
from collections.abc import Iterator

from tests import json_server


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
    return json.loads(json_server.ask(f"{self.address}/_objects"))

  def requests(self) -> list:
    return json.loads(json_server.ask(f"{self.address}/_requests"))

  def _post(self, where: str, value) -> None:
    json_server.ask(f"{self.address}/{where}", json.dumps(value).encode())


_ADDRESSES = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")  # Of gcsfs and of tensorstore.


@contextlib.contextmanager
def running() -> Iterator[Client]:
  """A server in a process of its own, which this process and those that it starts take for gs://."""
  with json_server.running("tests.fake_bucket") as address:
    os.environ |= dict.fromkeys(_ADDRESSES, address)
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "none"
    yield Client(address)
