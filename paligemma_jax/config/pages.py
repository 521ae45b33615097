"""The pages that come with us: at the top of a clone, or inside of an installed package."""

from __future__ import annotations

import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_FOLDER = "transfers"


def folder() -> pathlib.Path:
  """Where they lie."""
  inside = _PACKAGE / _FOLDER
  return inside if inside.is_dir() else _PACKAGE.parent / _FOLDER


def names() -> list[str]:
  """'okvqa' for okvqa.py; none where a package was put together without them."""
  return sorted(file.stem for file in folder().glob("*.py") if file.stem != "__init__")


def find(path: str) -> pathlib.Path | None:
  """The file of 'transfers/okvqa.py', 'okvqa.py' or 'okvqa'; None when there is no such page."""
  asked = pathlib.PurePosixPath(path)
  stem = asked.name.removesuffix(".py")
  if str(asked.parent) not in (".", _FOLDER) or stem not in names():
    return None
  return folder() / f"{stem}.py"


def likely() -> list[str]:
  """How a page can be asked for, for near matches."""
  return [*names(), *(f"{_FOLDER}/{name}.py" for name in names())]
