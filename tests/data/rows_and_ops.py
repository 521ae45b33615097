"""Small sources and ops for the loader's tests; they live in a module so that workers find them."""

import os
import time

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib

SIDE = 4


class Rows:
  """`n` rows with number and texts; those in `bad` are rejected."""

  def __init__(self, n, bad=()):
    self.n, self.bad = n, frozenset(bad)

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    if i in self.bad:
      raise errors.DataError(f"rows.txt:{i + 1}: row {i} is bad.")
    return {"i": i, "answers": [f"a{i}", f"b{i}", f"c{i}"]}

  def where(self, i):
    return f"rows.txt:{i + 1}"

  def fingerprint(self):
    return f"{self.n} {sorted(self.bad)}"


@spec_lib.spec
class Paint:
  """Image, prefix and suffix from number, epoch and the generator."""

  side: int = SIDE

  def needs(self):
    return ("i", "answers")

  def makes(self):
    return ("image", "prefix", "suffix")

  def __call__(self, row, rng):
    image = rng.integers(0, 256, (self.side, self.side, 3), np.uint8)
    image[0, 0] = row["i"], row["_epoch"], row["_row"]
    return {
      **row,
      "image": image,
      "prefix": f"row {row['i']}",
      "suffix": row["answers"][int(rng.integers(3))] * (1 + row["i"] % 4),
    }


@spec_lib.spec
class Sleep:
  """Waits a little (or for ever) at row `at`, so that threads and workers finish out of turn."""

  at: int = -1
  secs: float = 0.0

  def needs(self):
    return ()

  def makes(self):
    return ()

  def __call__(self, row, rng):
    if self.at in (-1, row["i"]):
      time.sleep(self.secs if self.at >= 0 else 0.002 * (row["i"] % 5))
    return row


@spec_lib.spec
class Die:
  """Ends its process at row `at`, as the kernel's out-of-memory killer does."""

  at: int

  def needs(self):
    return ()

  def makes(self):
    return ()

  def __call__(self, row, rng):
    if row["i"] == self.at:
      os.kill(os.getpid(), 9)
    return row


@spec_lib.spec
class Broken:
  """An op with a bug."""

  def needs(self):
    return ()

  def makes(self):
    return ()

  def __call__(self, row, rng):
    return {**row, "x": row["nothing"]}


@spec_lib.spec
class Set:
  """Sets a column for some rows."""

  name: str
  value: object
  at: tuple = ()

  def needs(self):
    return ()

  def makes(self):
    return (self.name,)

  def __call__(self, row, rng):
    return {**row, self.name: self.value} if not self.at or row["i"] in self.at else row
