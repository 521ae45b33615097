"""Outputs of the reference implementations on small random models, committed in `tests/golden/`."""

import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent / "golden"


def path(name: str) -> pathlib.Path:
  """The golden file or folder `name`, as in 'bv/tiny.npz'; fails the test where it is absent."""
  if not (_ROOT / name).exists():
    pytest.fail(f"tests/golden/{name} is missing: `git checkout tests/golden` restores it.", False)
  return _ROOT / name
