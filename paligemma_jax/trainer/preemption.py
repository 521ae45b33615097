"""Notices of Google Cloud that this machine is about to go: a spot VM taken back, maintenance.

A machine's metadata server says so before SIGTERM comes: of a spot VM at the beginning of its last
30 s, of maintenance that ends a VM with accelerators up to an hour before.

Sources: https://cloud.google.com/compute/docs/instances/create-use-spot and
https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
"""

from __future__ import annotations

import http.client
import os
import pathlib
import threading
import time
import urllib.request
from collections.abc import Callable

_PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")
_ADDRESSES = ("GCE_METADATA_HOST", "GCE_METADATA_IP")  # As Google's own libraries take them.
_ANSWER_SECS = 60.0  # When the server answers if nothing changes.
_AGAIN_SECS = 5.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# What is asked for: the value that is a notice, and whether it is one of a machine that starts.
_NOTICES = {
  "preempted": ("TRUE", True),
  # A run that went on after this notice, on the same machine, has till SIGTERM.
  "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE", False),
}


def watch(ask: Callable[[str], None]) -> None:
  """Calls `ask`, in a thread, with the name of each notice; on other clouds' machines never."""
  if address := _address():
    for key in _NOTICES:
      threading.Thread(target=_watch, args=(address, key, ask), name=key, daemon=True).start()


def _address() -> str:
  """That of the metadata server; '' where there is none."""
  if found := next(filter(None, map(os.environ.get, _ADDRESSES)), ""):
    return found
  try:
    is_google = "Google" in _PRODUCT.read_text(encoding="utf-8")
  except OSError:
    return ""
  return "metadata.google.internal" if is_google else ""


def _watch(address: str, key: str, ask: Callable[[str], None]) -> None:
  notice, counts_at_start = _NOTICES[key]
  url = f"http://{address}/computeMetadata/v1/instance/{key}"
  value = "" if counts_at_start else notice
  etag = "0"  # Of no value: the first answer comes at once.
  while True:
    query = f"wait_for_change=true&timeout_sec={_ANSWER_SECS:.0f}&last_etag={etag}"
    request = urllib.request.Request(f"{url}?{query}", headers={"Metadata-Flavor": "Google"})
    try:
      with _OPENER.open(request, timeout=_ANSWER_SECS + 10) as answer:
        now, etag = answer.read(1000).decode(errors="replace").strip(), answer.headers["ETag"]
    except (OSError, http.client.HTTPException):  # It restarts at times, and has no such key yet.
      time.sleep(_AGAIN_SECS)
      continue
    if now == notice and value != notice:
      ask("preemption" if key == "preempted" else "maintenance")
    value = now
