"""Outputs of the reference implementations on small random models, and where they are found.

A part is committed under `tests/golden/`; the whole set (17 MB, too much for the repository) is
looked for in $PALIGEMMA_JAX_GOLDENS and in `shared/goldens` beside the checkout. Tests that need a
file that is in none of these places are skipped by name.
"""

import os
import pathlib

import pytest

_HERE = pathlib.Path(__file__).resolve().parent
_ROOTS = (
  _HERE / "golden",
  pathlib.Path(os.environ.get("PALIGEMMA_JAX_GOLDENS", _HERE / "golden")),
  _HERE.parent.parent / "shared" / "goldens",
)


def path(name: str) -> pathlib.Path:
  """The golden file or folder `name`, as in 'bv/tiny.npz'; skips the test where it is absent."""
  for root in _ROOTS:
    if (root / name).exists():
      return root / name
  pytest.skip(f"golden {name} is not here; set PALIGEMMA_JAX_GOLDENS to the folder that has it")
