"""Measurements in a process of their own: a compiler that dies takes only that with it.

Reads {"jobs": […], "config_files": {module: file}} from stdin, writes one line of JSON per job to
stdout. Started by `runs`, which also sets the environment: compilers read theirs when JAX is
imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from paligemma_jax.config import config_file
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.planning import program
from paligemma_jax.planning import targets


def main() -> None:
  """One answer per job: what `program.measure` found, or {"refused": why}."""
  asked = json.load(sys.stdin)
  config_file.find_again(asked["config_files"])
  for job in asked["jobs"]:
    print(json.dumps(_answer(job)), flush=True)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
  try:
    # From the process that started this one, which has loaded it: with consent where one is needed.
    plain = specs.from_json(job["config"], allow_code=True)
    config = configs.from_plain(plain, "the configuration")
    configs.import_code(config)
    return program.measure(
      config,
      targets.get(job["on"]),
      frames=job["frames"],
      num_supervised=job["num_supervised"],
      compiled=job["compiled"],
    )
  except errors.ConfigError as e:
    return {"refused": str(e)}


if __name__ == "__main__":
  main()
