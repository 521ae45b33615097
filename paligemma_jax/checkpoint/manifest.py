"""Seals: a folder exists for us only once a last-written SEAL.json lists its every byte.

Neither file systems nor array formats promise to notice a flipped bit, a file cut short or a file
of another step; the seal holds the size and CRC-32 of every file, and of itself.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import atomic_io
from paligemma_jax.core import strict_json

SEAL = "SEAL.json"
_CHUNK_BYTES = 2**22


class Broken(Exception):
  """Why a folder is not intact: which file, what was found, what was expected."""


def write(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Seals `folder`: lists and syncs all files in it, then writes SEAL.json and syncs that.

  Args:
    facts: plain JSON data to keep in the seal.
  """
  files = {name: _digest(folder / name, sync=True) for name in _listing(folder)}
  for parent in sorted({(folder / name).parent for name in files} | {folder}):
    atomic_io.sync(parent)
  atomic_io.write_new(folder / SEAL, _render({"facts": dict(facts), "files": files}))
  atomic_io.sync(folder)


def read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, list]]:
  """(facts, {file: [size, crc32]}) of a seal whose own bytes are intact; files are not looked at.

  Raises:
    Broken: no seal, or not the bytes that were written.
  """
  try:
    data = atomic_io.read(folder / SEAL, max_bytes=strict_json.MAX_BYTES)
    body = strict_json.parse_object(data).get("body")
  except FileNotFoundError:
    raise Broken(f"{SEAL} is missing: it was never finished, or was deleted") from None
  except (OSError, strict_json.Malformed) as e:
    raise Broken(f"{SEAL} cannot be read: {strict_json.reason(e)}") from None
  if not isinstance(body, dict) or data != _render(body):
    raise Broken(f"{SEAL} is not as it was written")
  facts, files = body.get("facts"), body.get("files")
  if not isinstance(facts, dict) or not isinstance(files, dict):
    raise Broken(f"{SEAL} holds no facts, or no files")
  for name, sealed in files.items():
    if not isinstance(sealed, list) or list(map(type, sealed)) != [int, str]:
      raise Broken(f"{SEAL} says {str(sealed)[:60]!r} of {name}, no size and checksum")
  return facts, files


def verify(folder: pathlib.Path) -> dict[str, Any]:
  """The facts of an intact folder: every file there, none besides, all bytes as sealed.

  Raises:
    Broken: otherwise, naming the first bad file.
  """
  facts, files = read(folder)
  try:
    there = set(_listing(folder)) - {SEAL}
    for name in sorted(there | set(files)):
      if name not in files:
        raise Broken(f"{name} is not in the seal")
      if name not in there:
        raise Broken(f"{name} is missing")
      size = files[name][0]
      found = (folder / name).stat().st_size
      if found != size:
        short = f"{size - found} bytes short" if found < size else f"{found - size} bytes too long"
        raise Broken(f"{name} is {short}")
    for name, sealed in sorted(files.items()):
      if _digest(folder / name, sync=False) != list(sealed):
        raise Broken(f"{name} has other bytes than when it was sealed")
  except OSError as e:
    raise Broken(f"cannot be read: {e}") from None
  return facts


def seal_crc(folder: pathlib.Path) -> str:
  """The CRC-32 of the seal itself, which stands for the whole folder.

  Raises:
    Broken: there is none that can be read.
  """
  try:
    return _digest(folder / SEAL, sync=False)[1]
  except OSError as e:
    raise Broken(f"{SEAL} cannot be read: {e.strerror or e}") from None


def _render(body: Mapping[str, Any]) -> bytes:
  text = json.dumps(body, sort_keys=True)
  crc = f"{zlib.crc32(text.encode()):08x}"
  return (json.dumps({"body": body, "crc32": crc}, sort_keys=True, indent=1) + "\n").encode()


def _listing(folder: pathlib.Path) -> list[str]:
  found = []
  for root, folders, names in os.walk(folder):
    for name in names + folders:
      path = pathlib.Path(root, name)
      if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise Broken(f"{path.relative_to(folder)} is no regular file")
    found += [str(pathlib.Path(root, name).relative_to(folder)) for name in names]
  return sorted(found)


def _digest(path: pathlib.Path, *, sync: bool) -> list:
  crc, size = 0, 0
  with atomic_io.open_regular(path) as f:
    while block := f.read(_CHUNK_BYTES):
      crc = zlib.crc32(block, crc)
      size += len(block)
    if sync:
      os.fsync(f.fileno())
  return [size, f"{crc:08x}"]
