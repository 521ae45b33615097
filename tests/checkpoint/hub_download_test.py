"""Downloads from the hub, by its own client in a process of its own, from a server of this test."""

import hashlib
import http.server
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests import run_train

_MB = 1 << 20
_SIZE = 32 * _MB
_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BIG = "model.safetensors"
_FIND = """
import sys
from paligemma_jax.core import errors
from paligemma_jax.checkpoint import hub
try:
  print(hub.find(sys.argv[1]))
except errors.CheckpointError as e:
  print(e)
  sys.exit(3)
"""
_NO_PACKAGE = "import sys\nsys.modules['huggingface_hub'] = None\n"
needs_package = pytest.mark.skipif(
  importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


@pytest.fixture
def hub(tmp_path):
  files = {_BIG: np.random.default_rng(0).bytes(_SIZE), "config.json": b'{"model_type": "x"}'}
  server = _Hub(files)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.go_on.set()
  server.shutdown()
  server.server_close()


@pytest.fixture
def client(hub, tmp_path):
  """(arguments of a process that finds a name, its environment)."""
  env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
  env |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
    "HF_HOME": str(tmp_path / "home"),
    "HF_TOKEN": "hf_secret",
    "PYTHONPATH": str(run_train.ROOT),
  }
  return lambda name, code=_FIND, **more: dict(
    args=[sys.executable, "-c", code, name], env={**env, **more}, cwd=tmp_path, text=True
  )


def _run(call):
  return subprocess.run(**call, capture_output=True, check=False)


def _partial(tmp_path):
  return list((tmp_path / "home" / "hub" / "models--a--b" / "blobs").glob("*.incomplete"))


def _check_whole(done, hub):
  assert done.returncode == 0, done.stdout + done.stderr
  folder = pathlib.Path(done.stdout.strip())
  assert folder.name == _COMMIT
  for name, content in hub.files.items():
    assert (folder / name).read_bytes() == content


@needs_package
def test_a_killed_download_goes_on_within_the_file(hub, client, tmp_path):
  hub.stop_after = 24 * _MB
  process = subprocess.Popen(**client("a/b"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert hub.stopped.wait(60)
  while not _partial(tmp_path) or _partial(tmp_path)[0].stat().st_size < 10 * _MB:
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.communicate()
  (partial,) = _partial(tmp_path)
  there = partial.stat().st_size
  hub.stop_after = 0
  hub.go_on.set()
  hub.sent.clear()
  done = _run(client("a/b"))
  _check_whole(done, hub)
  assert there >= 10 * _MB and hub.sent == [(f"bytes={there}-", None)]
  assert "goes on at" in done.stderr and not _partial(tmp_path)
  hub.sent.clear()
  _check_whole(_run(client("a/b", HF_HUB_OFFLINE="1")), hub)  # From the cache.
  assert not hub.sent


@needs_package
def test_a_connection_that_breaks_costs_what_is_left(hub, client, tmp_path):
  """By the client's own second try, or by the same command, as the client's version has it."""
  hub.cut_after = 24 * _MB
  done = _run(client("a/b"))
  if done.returncode:
    assert "the same command goes on" in done.stdout
    done = _run(client("a/b"))
  _check_whole(done, hub)
  first, second = hub.sent
  assert first[0] is None and int(re.fullmatch(r"bytes=(\d+)-", second[0])[1]) >= 10 * _MB


@needs_package
def test_what_was_damaged_on_the_way_is_removed(hub, client, tmp_path):
  whole = hub.files[_BIG]
  hub.files[_BIG] = whole[:-1] + bytes([whole[-1] ^ 1])
  done = _run(client("a/b"))
  assert done.returncode == 3 and "a/b/model.safetensors was damaged on the way" in done.stdout
  assert not _partial(tmp_path)
  hub.files[_BIG] = whole
  _check_whole(_run(client("a/b")), hub)


@needs_package
def test_the_token_stays_on_the_hub(hub, client):
  _check_whole(_run(client("a/b@dev")), hub)
  assert "Bearer hf_secret" in hub.tokens["127.0.0.1"] and hub.tokens["localhost"] == {None}


@pytest.mark.parametrize(
  ("name", "more", "says"),
  [
    ("gated/model", {}, "'gated/model' is gated: accept its licence on .*`hf auth login`"),
    ("none/model", {}, "no such file .* is not on the Hugging Face hub, or .*its spelling"),
    ("a/b@none", {}, r"'a/b@none' has no revision 'none': take one of those on .*/tree/main"),
    ("a/b", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "no such file .* not be .*the same command"),
    ("a/b", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids a download: unset it, or"),
    ("a/b", {"code": _NO_PACKAGE + _FIND}, "`pip install huggingface_hub` and try again"),
  ],
)
def test_each_failure_is_a_sentence_with_its_remedy(client, name, more, says):
  if not {"HF_HUB_OFFLINE", "code"} & set(more):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
  done = _run(client(name, **more))
  assert done.returncode == 3, done.stderr
  text = done.stdout.strip()
  assert re.search(says, text) and f"'{name}'" in text
  assert text.endswith(".") and "\n" not in text and not re.search(r"\.\s+[A-Z]", text)


class _Hub(http.server.ThreadingHTTPServer):
  """As much of the hub as a download needs; its large file lies on another host.

  Attributes:
    files: {name: content}.
    stop_after: bytes of the large file after which the server waits for `go_on`; 0: none.
    cut_after: bytes after which it closes the connection, once; 0: none.
    sent: (Range, Authorization) of each GET of the large file.
    tokens: {host: Authorization headers that came}.
  """

  daemon_threads = True

  def __init__(self, files):
    super().__init__(("127.0.0.1", 0), _Answer)
    self.files, self.stop_after, self.cut_after = dict(files), 0, 0
    self.sha256 = hashlib.sha256(files[_BIG]).hexdigest()
    self.stopped, self.go_on = threading.Event(), threading.Event()
    self.sent, self.tokens = [], {}


class _Answer(http.server.BaseHTTPRequestHandler):
  """Answers to GET and HEAD."""

  def do_HEAD(self):
    self._answer(body=False)

  def do_GET(self):
    self._answer(body=True)

  def log_message(self, *args):
    pass

  def _answer(self, body):
    hub, token = self.server, self.headers.get("Authorization")
    hub.tokens.setdefault(self.headers["Host"].partition(":")[0], set()).add(token)
    path = self.path.partition("?")[0]
    name = path.rpartition("/")[2]
    if "gated/" in path:
      return self._send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
    if "none/" in path:
      return self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
    if path.startswith("/api/"):
      if "/none" in path:
        return self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
      return self._send(200, json.dumps(self._listing("/tree/" in path)).encode(), body)
    if path.startswith("/cdn/"):
      return self._send_big(body, token)
    headers = {"X-Repo-Commit": _COMMIT}
    if name == _BIG:
      headers |= {
        "Location": f"http://localhost:{hub.server_port}/cdn/{name}",
        "X-Linked-Etag": f'"{hub.sha256}"',
        "X-Linked-Size": str(len(hub.files[name])),
      }
      return self._send(302, b"", body, headers)
    data = hub.files[name]
    return self._send(200, data, body, {**headers, "ETag": f'"{len(data):040x}"'})

  def _listing(self, tree):
    files = self.server.files
    if tree:
      return [
        {"type": "file", "path": n, "size": len(x), "oid": "0" * 40} for n, x in files.items()
      ]
    return {
      "id": "a/b",
      "modelId": "a/b",
      "sha": _COMMIT,
      "private": False,
      "tags": [],
      "siblings": [{"rfilename": n} for n in files],
      "downloads": 0,
      "likes": 0,
    }

  def _send_big(self, body, token):
    hub, data = self.server, self.server.files[_BIG]
    asked = self.headers.get("Range")
    at = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
    self.send_response(206 if asked else 200)
    if asked:
      self.send_header("Content-Range", f"bytes {at}-{len(data) - 1}/{len(data)}")
    self.send_header("Content-Length", str(len(data) - at))
    self.end_headers()
    if not body:
      return
    hub.sent.append((asked, token))
    end = hub.stop_after or hub.cut_after or len(data)
    cut, hub.cut_after = bool(hub.cut_after), 0
    self.close_connection = True
    try:
      self.wfile.write(data[at:end])
      if end < len(data) and not cut:
        hub.stopped.set()
        hub.go_on.wait(60)
    except OSError:  # The client is gone.
      pass

  def _send(self, status, data, body, headers=None):
    self.send_response(status)
    for key, value in (headers or {}).items():
      self.send_header(key, value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    if body:
      self.wfile.write(data)
