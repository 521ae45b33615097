"""python -m paligemma_jax.version: prints the versions of all packages that a run depends on."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Sequence

import paligemma_jax
from paligemma_jax import cli
from paligemma_jax.config import command_line

_ALWAYS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")
_IF_THERE = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin")


def parser() -> argparse.ArgumentParser:
  what = "Prints the versions of all packages that a run depends on. It uses no device."
  return command_line.plain_parser("version", what)


def main(argv: Sequence[str]) -> None:
  """Prints a line with name and version for each."""
  parser().parse_args(argv)
  print(f"paligemma_jax {paligemma_jax.__version__}")
  print(f"python {platform.python_version()}")
  for name in (*_ALWAYS, *_IF_THERE):
    try:
      print(f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
      if name in _ALWAYS:
        print(f"{name} is not installed")
  print(f"platform {platform.platform()}")


if __name__ == "__main__":
  cli.run("version", sys.argv[1:])
