"""Inputs made by hand end as their tables say, in seconds, in little memory, and touch nothing."""

import json
import subprocess
import sys

import pytest

from tests.faults import fuzz
from tests.faults import readers
from tests.hostile import bombs
from tests.hostile import made

_TABLES = made.tables()
# Those of more than five seconds, up to twenty.
_SLOW = ("tfds", "masks", "npz", "safetensors", "native", "tokenizer", "run_files",
         "answers_and_config")  # fmt: skip
_LEAST = 30


def _wrong(case, found):
  kind, _, words = case.expected.partition(" ")
  if found["outcome"] != kind:
    return f"{found['outcome']} in place of {kind}: {found['said'][:200]}"
  if words not in found["said"]:
    return f"{words!r} is not in {found['said'][:300]!r}"
  return ", ".join(found["violations"])


@pytest.mark.parametrize(
  "reader", [pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in _TABLES]
)
def test_inputs_made_by_hand(reader):
  table = _TABLES[reader]
  done = subprocess.run(
      [sys.executable, "-m", "tests.hostile.made", reader],
      cwd=readers.ROOT, capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip
  found = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
  left = [name for name in table if name not in found]
  assert not left, f"the process ended at {left[0]!r}: {done.returncode}, {done.stderr[-1500:]}"
  wrong = {name: why for name, case in table.items() if (why := _wrong(case, found[name]))}
  assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
  secs = max(line["secs"] for line in found.values())
  megabytes = max(line["megabytes"] for line in found.values())
  print(f"{reader}: {len(table)} inputs, at most {secs:.2f} s, {megabytes:.0f} MB over idle")


def test_every_reader_has_many():
  also = [name.partition(":")[0] for name in bombs.ANNOTATIONS]
  num = {reader: len(table) + also.count(reader) for reader, table in _TABLES.items()}
  assert min(num.values()) >= _LEAST, num
  assert set(fuzz.READERS) - set(num) == {"image", "video"}  # Their tables are images and movies.
