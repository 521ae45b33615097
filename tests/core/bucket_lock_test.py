"""Of several processes one has the lock of a run in a bucket, and a dead one loses it."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from paligemma_jax.core import bucket
from paligemma_jax.core import bucket_lock


@pytest.fixture
def root(gcs, request):
  return bucket.path("gs://test-bucket/" + re.sub(r"\W", "-", request.node.name))


def lease(root, name, lost=None):
  return bucket_lock.Lease(root / "lock", {"pid": name}, lost or (lambda reason: None))


def test_a_living_holder_keeps_the_lock_and_is_named(root, monkeypatch):
  monkeypatch.setattr(bucket_lock, "RENEW_SECS", 0.3)
  first = lease(root, "first")
  assert first.acquire() is None
  assert lease(root, "second").acquire()["pid"] == "first"
  first.close()
  second = lease(root, "second")
  begin = time.monotonic()
  assert second.acquire() is None and time.monotonic() - begin < 2
  second.close()


def test_a_dead_holder_loses_the_lock_and_one_of_two_gets_it(root, monkeypatch):
  monkeypatch.setattr(bucket_lock, "RENEW_SECS", 0.2)
  monkeypatch.setattr(bucket_lock, "LEASE_SECS", 1.5)
  bucket.create(root / "lock", json.dumps({"pid": "dead", "holder": "x"}).encode())
  leases = [lease(root, f"{i}") for i in range(3)]
  found = []
  threads = [threading.Thread(target=lambda l=l: found.append(l.acquire())) for l in leases]
  [t.start() for t in threads]
  [t.join() for t in threads]
  assert [f is None for f in found].count(True) == 1
  [l.close() for l in leases]


def test_a_holder_that_was_stopped_too_long_is_told(root, monkeypatch):
  monkeypatch.setattr(bucket_lock, "RENEW_SECS", 0.3)
  reasons = []
  held = lease(root, "first", reasons.append)
  assert held.acquire() is None
  bucket.write(root / "lock", json.dumps({"pid": "other", "holder": "y"}).encode())
  deadline = time.monotonic() + 5
  while not reasons and time.monotonic() < deadline:
    time.sleep(0.05)
  assert "taken by another process" in reasons[0]
  held.close()
  assert json.loads(bucket.read(root / "lock", max_bytes=999))["pid"] == "other"


def test_the_lock_outlasts_a_store_that_is_away(root, gcs, monkeypatch):
  monkeypatch.setattr(bucket_lock, "RENEW_SECS", 0.3)
  reasons = []
  held = lease(root, "first", reasons.append)
  assert held.acquire() is None
  gcs.plan(dict(path="lock", status=403, times=3))
  time.sleep(4.5)
  assert not reasons
  assert lease(root, "second").acquire()["pid"] == "first"
  held.close()


def test_a_process_of_this_machine_that_is_gone_has_lost_the_lock_at_once(root):
  code = (
    "import json, os\n"
    "from paligemma_jax.core import bucket_lock\n"
    "print(json.dumps(bucket_lock._process(os.getpid())))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  gone = json.loads(done.stdout)
  assert gone[2] != os.getpid()
  bucket.create(root / "lock", json.dumps({"process": gone, "holder": "x"}).encode())
  begin = time.monotonic()
  held = lease(root, "next")
  assert held.acquire() is None and time.monotonic() - begin < 2
  held.close()
