"""Measures jobs in a process of its own, which a crash of the compiler may end.

Reads {"jobs": […], "config_files": {module: file}} from stdin, writes one line of JSON per job to
stdout. `runs` starts it with an environment for the compiler, which is read when JAX is imported.
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
    # The process that started this one has loaded it, with the user's consent where needed.
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
