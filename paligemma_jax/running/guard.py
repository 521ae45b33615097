"""Going on with a run is refused when it would not be the run that was started."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import ml_collections
from absl import logging

from paligemma_jax.core import config as configs
from paligemma_jax.core import disk
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.data import fingerprint
from paligemma_jax.running import workdir as workdirs

_MAX_BYTES = 64 << 20  # Of data.json, which holds the row ops as text.


def check_config(
    config: ml_collections.ConfigDict, workdir: workdirs.Workdir, *, main: bool
) -> None:
  """Writes the configuration into the workdir, after comparing it with the one that is there.

  Raises:
    ConfigError: a key changed that the rest of the run cannot change.
  """
  if workdir.config.exists():
    found = configs.changes(configs.read(workdir.config, keep_unknown=True), config)
    if found["refuse"]:
      raise errors.ConfigError(
          f"{workdir.path} holds a run with another configuration: {'; '.join(found['refuse'])}."
          " Use another --workdir for a new run, or the old values to go on with this one."
      )
    for change in found["warn"]:
      logging.warning("this run was started with another value: %s", change)
  if main:
    configs.save(config, workdir.config)


def check_data(
    now: Mapping[str, str], workdir: workdirs.Workdir, *, allow: bool, main: bool
) -> None:
  """Writes what the rows look like into the workdir, after comparing with what is there.

  Args:
    now: of the training rows, ops and tokenizer (`data.fingerprint.fingerprint`).
    allow: only warn of a difference.

  Raises:
    ConfigError: the batches would not be those that the run was started with.
  """
  is_new = not workdir.data.exists()
  if not is_new:
    try:
      fingerprint.check_same(_read(workdir.data), now)
    except errors.ConfigError as e:
      if not allow:
        raise errors.ConfigError(
            f"{workdir.path}: {e}\nTo go on with the new data all the same: --allow_data_change."
        ) from None
      logging.warning("%s", e)
  if main and (is_new or allow):
    disk.write_atomically(workdir.data, json.dumps(now, indent=2) + "\n")


def _read(path: pathlib.Path) -> dict[str, str]:
  try:
    return strict_json.read_object(path, max_bytes=_MAX_BYTES)
  except (OSError, strict_json.Malformed) as e:
    raise errors.ConfigError(
        f"{path.name} does not say what the data of this run were: {strict_json.reason(e)}."
    ) from None
