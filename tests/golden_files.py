"""Where the committed outputs of the reference implementations lie."""

import pathlib

ROOT = pathlib.Path(__file__).parent / "golden"


def path(name: str) -> pathlib.Path:
  """The golden file or folder `name`, as in 'bv/tiny.npz'."""
  found = ROOT / name
  assert found.exists(), f"{found} is not committed"
  return found
