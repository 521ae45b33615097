"""A folder of downloaded files, with or without its zip files unpacked."""

from __future__ import annotations

import bz2
import csv
import io
import json
import pathlib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any, ClassVar

from paligemma_jax.core import errors


class Raw:
  """The files of a download.

  A file 'train2014/a.jpg' is found as such, or in `train2014.zip`, with or without the folder's
  name in front of the members; zip files need not be unpacked.
  """

  def __init__(self, folder: pathlib.Path, homepage: str):
    self.folder, self._homepage = pathlib.Path(folder), homepage
    self._zips: dict[pathlib.Path, dict[str, str]] = {}
    self._found: dict[str, RawFile] = {}

  def file(self, *names: str) -> RawFile:
    """The first existing file of these names; ConfigError with the download's page without one."""
    for name in names:
      found = self.find(name)
      if found is not None:
        return found
    raise errors.ConfigError(
      f"{' or '.join(repr(n) for n in names)} is missing in {self.folder}. It is part of the"
      f" download at {self._homepage}; put it there as it is (zip files need not be unpacked)."
    )

  def find(self, name: str) -> RawFile | None:
    """The file, the same object each time, or None."""
    if name not in self._found:
      found = self._locate(name)
      if found is None:
        return None
      self._found[name] = found
    return self._found[name]

  def _locate(self, name: str) -> RawFile | None:
    path = self.folder / name
    if not path.resolve().is_relative_to(self.folder.resolve()):
      raise errors.DataError(f"{name!r} points outside {self.folder}.")
    if path.is_file():
      return RawFile(name, path)
    parts = pathlib.PurePosixPath(name).parts
    for depth in range(1, len(parts)):
      archive = self.folder.joinpath(*parts[:depth]).with_name(parts[depth - 1] + ".zip")
      members = self._members(archive)
      for member in ("/".join(parts[depth - 1 :]), "/".join(parts[depth:])):
        if member in members:
          return RawFile(name, archive, member)
    return None

  def names(self, folder: str, suffix: str = "") -> list[str]:
    """Sorted names 'folder/…' of all files below a folder (or in a zip) that end in `suffix`."""
    path = self.folder / folder
    if path.is_dir():
      found = [f.relative_to(self.folder).as_posix() for f in path.rglob("*") if f.is_file()]
    else:
      found = [f"{folder}/{name}" for name in self._zipped(folder)]
    return sorted(name for name in found if name.endswith(suffix))

  def json(self, *names: str, without: Collection[str] = ()) -> Any:
    """The content of a JSON file (see `file`), for large ones `without` some keys of objects."""
    file = self.file(*names)
    hook = (lambda pairs: {k: v for k, v in pairs if k not in without}) if without else None
    try:
      return json.loads(file.read(), object_pairs_hook=hook)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
      raise errors.DataError(f"{file} is not JSON: {e}") from None

  def jsonl(self, *names: str) -> list[Any]:
    """The objects of a file of JSON lines."""
    file = self.file(*names)
    rows = []
    for i, line in enumerate(file.read().splitlines(), 1):
      if line.strip():
        try:
          rows.append(json.loads(line))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
          raise errors.DataError(f"{file}:{i} is not JSON: {e}") from None
    return rows

  def jsonl_lines(self, *names: str) -> Iterator[Any]:
    """The same one by one, for files of gigabytes, possibly .bz2."""
    file = self.file(*names)
    try:
      with file.open() as lines:
        for i, line in enumerate(lines, 1):
          if line.strip():
            try:
              yield json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
              raise errors.DataError(f"{file}:{i} is not JSON: {e}") from None
    except (OSError, EOFError, zipfile.BadZipFile) as e:
      raise errors.DataError(f"Cannot read {file}: {e}. Download it again.") from None

  def csv(self, *names: str, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV (or, with delimiter='\\t', TSV) file with a header line."""
    return list(self.csv_lines(*names, delimiter=delimiter))

  def csv_lines(self, *names: str, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """The same one by one, for files of millions of lines."""
    file = self.file(*names)
    with io.TextIOWrapper(io.BytesIO(file.read()), encoding="utf-8-sig", newline="") as lines:
      try:
        yield from csv.DictReader(lines, delimiter=delimiter)
      except UnicodeDecodeError as e:
        raise errors.DataError(f"{file} is not UTF-8: {e}") from None

  def _zipped(self, folder: str) -> list[str]:
    """The names, relative to a folder, of its files in a zip file."""
    parts = pathlib.PurePosixPath(folder).parts
    for depth in range(1, len(parts) + 1):
      archive = self.folder.joinpath(*parts[:depth]).with_name(parts[depth - 1] + ".zip")
      members = self._members(archive)
      for inside in ("/".join(parts[depth - 1 :]), "/".join(parts[depth:])):
        above = f"{inside}/" if inside else ""
        found = [m.removeprefix(above) for m in members if m.startswith(above)]
        if found:
          return found
    return []

  def _members(self, archive: pathlib.Path) -> dict[str, str]:
    if archive not in self._zips:
      names = {}
      if archive.is_file():
        try:
          with zipfile.ZipFile(archive) as z:
            names = {n: n for n in z.namelist() if not n.endswith("/")}
        except zipfile.BadZipFile as e:
          raise errors.DataError(f"{archive} is no zip file: {e}. Download it again.") from None
      self._zips[archive] = names
    return self._zips[archive]


class RawFile:
  """A file of the download, read when its row is written."""

  # One handle per archive and process.
  _open: ClassVar[dict[pathlib.Path, zipfile.ZipFile]] = {}

  def __init__(self, name: str, path: pathlib.Path, member: str = ""):
    self.name, self._path, self._member = name, path, member

  def read(self) -> bytes:
    try:
      if not self._member:
        return self._path.read_bytes()
      if self._path not in self._open:
        self._open[self._path] = zipfile.ZipFile(self._path)
      return self._open[self._path].read(self._member)
    except (OSError, zipfile.BadZipFile) as e:
      raise errors.DataError(f"Cannot read {self}: {e}") from None

  def open(self) -> IO[bytes]:
    """The content as a stream; a .bz2 file is decompressed."""
    if self._member:
      stream = io.BytesIO(self.read())
    else:
      stream = open(self._path, "rb")
    return bz2.open(stream) if self.name.endswith(".bz2") else stream

  def __repr__(self) -> str:
    return f"RawFile({self.name!r})"

  def __str__(self) -> str:
    return f"{self._path}:{self._member}" if self._member else str(self._path)


def read_all(value: Any) -> Any:
  """The record with every RawFile replaced by its bytes."""
  if isinstance(value, RawFile):
    return value.read()
  if isinstance(value, Mapping):
    return {k: read_all(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [read_all(v) for v in value]
  return value
