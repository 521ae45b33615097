"""A notice of the metadata server stops a run, which saves its state; SIGTERM may follow."""

import contextlib
import http.server
import signal
import subprocess
import threading
import time
import urllib.parse

import pytest

from paligemma_jax.trainer import preemption
from tests import run_train


class Server(http.server.ThreadingHTTPServer):
  """Google's metadata server; answers when a value changes, or after a moment."""

  daemon_threads = True

  def __init__(self, **values):
    super().__init__(("127.0.0.1", 0), Handler)
    self.values = {"preempted": "FALSE", "maintenance-event": "NONE", **values}
    self.changed = threading.Condition()
    self.asked = []

  def set(self, key, value):
    with self.changed:
      self.values[key] = value
      self.changed.notify_all()


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    url = urllib.parse.urlsplit(self.path)
    key = url.path.removeprefix("/computeMetadata/v1/instance/")
    query = dict(urllib.parse.parse_qsl(url.query))
    assert self.headers["Metadata-Flavor"] == "Google" and query["wait_for_change"] == "true"
    server = self.server
    with server.changed:
      server.asked.append(key)
      server.changed.wait_for(
        lambda: server.values[key] != query["last_etag"], float(query["timeout_sec"])
      )
      value = server.values[key]
    self.send_response(200)
    self.send_header("ETag", value)
    self.end_headers()
    self.wfile.write(f"{value}\n".encode())

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def metadata(monkeypatch, **values):
  with Server(**values) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()


def seen(condition):
  deadline = time.monotonic() + 20
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  return condition()


@pytest.mark.parametrize(
  "key, value, why",
  [
    ("preempted", "TRUE", "preemption"),
    ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "maintenance"),
  ],
)
def test_a_notice_is_told_once(monkeypatch, key, value, why):
  monkeypatch.setattr(preemption, "_ANSWER_SECS", 1.0)
  asked = []
  with metadata(monkeypatch) as server:
    preemption.watch(asked.append)
    assert seen(lambda: server.asked.count(key) > 1) and not asked
    server.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")  # The machine goes on.
    server.set(key, value)
    assert seen(lambda: asked)
    before = server.asked.count(key)
    assert seen(lambda: server.asked.count(key) > before + 1)
  assert asked == [why]


@pytest.mark.parametrize(
  "values, want",
  [
    ({"preempted": "TRUE"}, ["preemption"]),
    ({"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}, []),
  ],
)
def test_at_the_start_only_a_preemption_counts(monkeypatch, values, want):
  asked = []
  with metadata(monkeypatch, **values) as server:
    preemption.watch(asked.append)
    assert seen(lambda: set(server.asked) == set(preemption._NOTICES))
    assert seen(lambda: asked == want)
  assert asked == want


def test_a_server_that_fails_is_asked_again(monkeypatch):
  monkeypatch.setattr(preemption, "_AGAIN_SECS", 0.01)
  asked = []
  monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
  failures = []
  monkeypatch.setattr(preemption.time, "sleep", lambda secs: failures.append(secs))
  with metadata(monkeypatch, preempted="TRUE") as server:
    del server.values["preempted"]  # Its handler fails: the connection breaks off.
    preemption.watch(asked.append)
    deadline = time.monotonic() + 20
    while len(failures) < 3 and time.monotonic() < deadline:
      pass
    assert len(failures) >= 3 and not asked
    server.values["preempted"] = "TRUE"
    while not asked and time.monotonic() < deadline:
      pass
  assert asked == ["preemption"]


def test_machines_of_others_are_not_watched(monkeypatch, tmp_path):
  for name in preemption._ADDRESSES:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(preemption, "_PRODUCT", tmp_path / "product_name")
  assert preemption._address() == ""
  preemption._PRODUCT.write_text("Standard PC\n")
  assert preemption._address() == ""
  preemption._PRODUCT.write_text("Google Compute Engine\n")
  assert preemption._address() == "metadata.google.internal"


@pytest.mark.slow  # Two starts of the command.
def test_a_preempted_run_saves_its_state_also_when_sigterm_follows(monkeypatch, tmp_path):
  args = ("configs/tiny.py", tmp_path / "run", "--config.train.total=4000 steps")
  with metadata(monkeypatch) as server:
    with subprocess.Popen(
      run_train.command(*args), cwd=run_train.ROOT, stderr=subprocess.PIPE, text=True
    ) as run:
      while run_train.last_step(tmp_path / "run") < 3:
        assert run.poll() is None, run.stderr.read()[-2000:]
        time.sleep(0.05)
      server.set("preempted", "TRUE")
      line = ""
      while "preemption: stopping as soon as" not in line:
        line = run.stderr.readline()
        assert line
      run.send_signal(signal.SIGTERM)
      _, text = run.communicate(timeout=120)
    assert run.returncode == 75, text[-2000:]
    assert "preemption: stopped; all steps that were finished are saved" in text
  assert run_train.state_arrays(tmp_path / "run")["step"] == run_train.last_step(tmp_path / "run")
