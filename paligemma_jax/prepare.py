"""python -m paligemma_jax.prepare okvqa --raw DIR: builds a dataset from its official download.

The builders are `paligemma_jax.builders` in an installed package, tools/prepare in a clone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence

from paligemma_jax import cli
from paligemma_jax.core import errors

_PLACES = (("paligemma_jax", "builders"), ("tools", "prepare"))


def parser() -> argparse.ArgumentParser:
  return _builders().parser()


def main(argv: Sequence[str]) -> None:
  """Builds a dataset, or prints what its download needs."""
  _builders().main(argv)


def names() -> list[str]:
  """The benchmarks that have a builder."""
  return _builders().module_names()


def _builders() -> types.ModuleType:
  for top, inner in _PLACES:
    if importlib.util.find_spec(top) and importlib.util.find_spec(f"{top}.{inner}"):
      return importlib.import_module(f"{top}.{inner}.__main__")
  raise errors.ConfigError(
    "The builders of datasets are not here: install the package with pip, or name the folder of a"
    " clone in $PYTHONPATH."
  )


if __name__ == "__main__":
  cli.run("prepare", sys.argv[1:])
