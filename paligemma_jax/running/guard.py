"""Going on with a run is refused when it would not be the run that was started."""

from __future__ import annotations

import json
from typing import Any

import ml_collections
from absl import logging

from paligemma_jax.core import config as configs
from paligemma_jax.core import errors
from paligemma_jax.running import files
from paligemma_jax.running import workdir as workdirs


def check_config(
    config: ml_collections.ConfigDict, workdir: workdirs.Workdir, *, main: bool
) -> None:
  """Writes the configuration into the workdir, after comparing it with the one that is there.

  Raises:
    ConfigError: a key changed that the rest of the run cannot change.
  """
  if workdir.config.exists():
    found = configs.changes(configs.read(workdir.config), config)
    if found["refuse"]:
      raise errors.ConfigError(
          f"{workdir.path} holds a run with another configuration: {'; '.join(found['refuse'])}."
          " Use another --workdir for a new run, or the old values to go on with this one."
      )
    for change in found["warn"]:
      logging.warning("this run was started with another value: %s", change)
  if main:
    configs.save(config, workdir.config)


def check_data(rows: Any, workdir: workdirs.Workdir, *, allow: bool, main: bool) -> list[str]:
  """Writes what the rows look like into the workdir, after comparing with what is there.

  Args:
    rows: the opened training source.
    allow: only warn of a difference.

  Returns:
    What changed and was allowed.

  Raises:
    ConfigError: the rows are not those that the run was started with.
  """
  now = {"num_rows": len(rows), "fingerprint": rows.fingerprint()}
  changed = []
  if workdir.data.exists():
    before = json.loads(workdir.data.read_text())
    differing = [key for key in now if before.get(key) != now[key]]
    changed = [f"{key}: {before.get(key)} -> {now[key]}" for key in differing]
    if changed and not allow:
      raise errors.ConfigError(
          f"The training rows are not those that the run in {workdir.path} was started with"
          f" ({'; '.join(changed)}). Bring the old data back, use another --workdir, or pass"
          " --allow_data_change to go on with the new rows."
      )
    for change in changed:
      logging.warning("the training rows changed under this run: %s", change)
  if main and (changed or not workdir.data.exists()):
    files.write_atomically(workdir.data, json.dumps(now) + "\n")
  return changed
