"""Named points at which a test can make this process fail; nothing happens unless PJ_FAULT is set.

PJ_FAULT is `point`, `point:action` or `point:action@n`: at the n-th visit (default: the first) of
that point the process exits with code 9 as if killed (`exit`, the default), hangs (`sleep`), meets
a full disk (`enospc`) or gets a signal (`sigterm`, `sigint`).
"""

from __future__ import annotations

import collections
import errno
import os
import signal
import time

from paligemma_jax.core import errors

POINTS = frozenset(
  {
    "state.before_arrays",
    "state.after_arrays",
    "state.after_seal",
    "state.after_rename",
    "state.before_delete",
    "state.after_delete",
    "base.after_seal",
    "base.after_rename",
    "metrics.before_append",
    "metrics.after_append",
    "bad_rows.before_append",
    "bad_rows.after_append",
  }
)

_visits: collections.Counter[str] = collections.Counter()


def point(name: str) -> None:
  """Marks a place where tests let the process fail; a no-op in every real run."""
  wanted = os.environ.get("PJ_FAULT", "")
  if not wanted:
    return
  target, _, rest = wanted.partition(":")
  if target != name:
    return
  action, _, visit = rest.partition("@")
  _visits[name] += 1
  if _visits[name] == int(visit or 1):
    errors.pick(_ACTIONS, action or "exit", "action in PJ_FAULT")(name)


def _enospc(name):
  raise OSError(errno.ENOSPC, f"no space left on device (injected at {name})")


_ACTIONS = {
  "exit": lambda name: os._exit(9),
  "sleep": lambda name: time.sleep(3600),
  "enospc": _enospc,
  "sigterm": lambda name: os.kill(os.getpid(), signal.SIGTERM),
  "sigint": lambda name: os.kill(os.getpid(), signal.SIGINT),
}
