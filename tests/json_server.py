"""What the servers of tests share: each is a process that answers for a service of Google's."""

import contextlib
import http.server
import os
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).resolve().parent.parent


class Handler(http.server.BaseHTTPRequestHandler):
  """One request after the other of a connection; a subclass answers the method `self.command`."""

  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True  # Else each answer waits 40 ms for the client's acknowledgement.

  def log_message(self, *args):
    pass

  def answer(self) -> None:
    raise NotImplementedError

  def do_GET(self):
    self.answer()

  do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

  def send(self, status: int, data: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
    """Answers; `cut` closes the connection in the middle of it."""
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data[: len(data) // 2] if cut else data)
    self.close_connection = self.close_connection or cut


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128

  def handle_error(self, request, client_address):
    """A client was killed, or gave up: no news here."""


def serve(handler: type[Handler]) -> None:
  """Prints the port that it took, and answers until the process is killed."""
  server = _Server(("127.0.0.1", 0), handler)
  print(server.server_address[1], flush=True)
  server.serve_forever()


@contextlib.contextmanager
def running(module: str) -> Iterator[str]:
  """The address of a server in a process of its own; the environment is as before afterwards."""
  command = [sys.executable, "-m", module]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as server:
    before = dict(os.environ)
    try:
      yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
      os.environ.clear()
      os.environ.update(before)
      server.kill()


def ask(address: str, data: bytes | None = None) -> bytes:
  """What the server answers to a GET, or to a POST of the data."""
  return urllib.request.urlopen(urllib.request.Request(address, data)).read()
