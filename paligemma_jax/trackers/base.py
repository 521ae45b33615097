"""What the trackers share: their packages, and the ids by which a resumed run is found again."""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

PROJECT = "paligemma_jax"  # Where neither the spec nor the environment names one.
_FILE = "trackers.json"


def package(name: str) -> Any:
  """The tracker's package, which is also the name of our extra; ConfigError without it."""
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise errors.ConfigError(
      f"log.trackers names {name}, whose package is not here ({e}): pip install"
      f" 'paligemma-jax[{name}]', or leave it out."
    ) from e


def run_id(workdir: pathlib.Path, tracker: str) -> str:
  """The id of the run in this tracker, kept in the workdir; '' of a new one."""
  found = _ids(workdir).get(tracker, "")
  return found if isinstance(found, str) else ""


def keep_run_id(workdir: pathlib.Path, tracker: str, value: str) -> None:
  """Keeps the id for `run_id`."""
  text = json.dumps({**_ids(workdir), tracker: value}, indent=2) + "\n"
  atomic_io.write_atomically(workdir / _FILE, text)


def _ids(workdir: pathlib.Path) -> dict[str, Any]:
  try:
    return strict_json.read_object(workdir / _FILE)
  except (OSError, strict_json.Malformed):  # None yet; a damaged one begins new runs.
    return {}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool | None]:
  """{'optim.lr': 0.001, …}: the values of a configuration's JSON that are no lists."""
  found: dict[str, str | int | float | bool | None] = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      found |= flat(value, f"{prefix}{name}.")
    elif not isinstance(value, list):
      found[f"{prefix}{name}"] = value
  return found
