"""Inputs made by hand, each with what is expected of it, for the readers that fuzz.py damages.

    python -m tests.hostile.made READER   # One JSON line an input: what came of it, what it took.

A `Case` changes one file of the valid input of `tests.faults.readers`; what it may cost and what it
may touch is measured as there.
"""

import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.faults import fuzz


class Case(NamedTuple):
  """One input.

  file: the file that is changed, below the folder of the reader's valid input.
  change: its new content, or what is done with its path.
  expected: "value", or the kind of error and words that its sentence must hold.
  """

  file: str
  change: bytes | Callable[[pathlib.Path], Any]
  expected: str


def edit(change: Callable[[Any], Any]) -> Callable[[pathlib.Path], None]:
  """Changes the value in a JSON file; what `change` gives back stands there, or what it changed."""

  def apply(path):
    value = json.loads(path.read_bytes())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))

  return apply


def swap(old: bytes, new: bytes) -> Callable[[pathlib.Path], None]:
  """Other bytes in place of those that stand there."""

  def apply(path):
    data = path.read_bytes()
    assert old in data, (path, old)
    path.write_bytes(data.replace(old, new))

  return apply


def link(to: str) -> Callable[[pathlib.Path], None]:
  """A link in place of the file."""

  def apply(path):
    path.unlink()
    path.symlink_to(to)

  return apply


def outside(path: pathlib.Path) -> None:
  """A link in place of the file to one that lies outside of the folder of inputs."""
  path.unlink()
  above = next(p for p in path.parents if p.name == "input").parents[1]
  assert (above / "outside" / "mine").is_file()
  path.symlink_to(above / "outside" / "mine")


def fifo(path: pathlib.Path) -> None:
  """A pipe that nobody writes to, in place of the file."""
  path.unlink()
  os.mkfifo(path)


def folder(path: pathlib.Path) -> None:
  """A folder in place of the file."""
  path.unlink()
  path.mkdir()


def gone(path: pathlib.Path) -> None:
  """No such file."""
  path.unlink()


def cut(path: pathlib.Path) -> None:
  """The first half of the file."""
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turned(path: pathlib.Path) -> None:
  """Every bit of some bytes in the middle of the file turned."""
  data = path.read_bytes()
  at = len(data) // 2
  path.write_bytes(data[:at] + bytes(255 - b for b in data[at : at + 40]) + data[at + 40 :])


def more(data: bytes) -> Callable[[pathlib.Path], None]:
  """Bytes behind the end."""
  return lambda path: path.write_bytes(path.read_bytes() + data)


def size(num_bytes: int) -> Callable[[pathlib.Path], None]:
  """NULs up to a size, which take no room on the disk."""
  return lambda path: os.truncate(path, num_bytes)


def traps(file: str, kind: str, **expected: str) -> dict[str, Case]:
  """What stands in place of a file: nothing, a pipe, a device, a folder, links.

  Args:
    kind: of the error.
    expected: words of the sentence, or a whole `Case.expected`, where another one is expected.
  """
  changes = {
      "missing": gone, "pipe": fifo, "folder": folder, "device": link("/dev/zero"),
      "itself": link(os.path.basename(file)), "empty": b"", "blank": b" \n\t\r\n \n",
  }  # fmt: skip
  cases = {}
  for name, change in changes.items():
    words = expected.get(name, "")
    whole = words == "value" or words.partition(" ")[0].endswith("Error")
    cases[f"{file}: {name}"] = Case(file, change, words if whole else f"{kind} {words}".strip())
  return cases


def tables() -> dict[str, dict[str, Case]]:
  """{reader: {name: input}} of all rooms."""
  from tests.hostile import annotations
  from tests.hostile import folders
  from tests.hostile import masks
  from tests.hostile import stores
  from tests.hostile import texts
  from tests.hostile import weights

  found: dict[str, dict[str, Case]] = {}
  for room in (annotations, stores, masks, weights, folders, texts):
    found |= room.CASES
  return found


def main(reader: str, only: str = "") -> None:
  """Reads every input of a reader's table in this process."""
  with tempfile.TemporaryDirectory(prefix="made-") as above:
    place, out = fuzz.begun(reader, above)
    for name, case in tables()[reader].items():
      if only not in name:
        continue
      place.fresh()
      path = place.input / case.file
      if isinstance(case.change, bytes):
        path.write_bytes(case.change)
      else:
        case.change(path)
      print(json.dumps({"name": name} | fuzz.tried(place, [case.file], loud=bool(only))), file=out)


if __name__ == "__main__":
  main(*sys.argv[1:])
