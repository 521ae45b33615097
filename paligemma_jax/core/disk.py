"""Writing so that a crash leaves the old file or the new one, whole and on disk."""

from __future__ import annotations

import os
import pathlib


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> None:
  """Writes the file so that a crash leaves the old content or the new, never a part.

  Text is UTF-8. Missing folders above the file are made.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Always the same name: what a killed process left behind is overwritten and cannot pile up.
  partial = path.parent / f".{path.name}.partial"
  try:
    with open(partial, "wb") as f:
      f.write(data.encode() if isinstance(data, str) else data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(partial, path)
  except BaseException as e:
    partial.unlink(missing_ok=True)
    if isinstance(e, OSError) and e.errno:
      e.filename = str(path)  # A full disk does not say which file it is about.
    raise
  sync(path.parent)


def sync(path: str | os.PathLike[str]) -> None:
  """Forces the content of a file, or the names in a folder, to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
