"""Rows written down in the config itself: for tests, and for a handful of prompts to watch."""

from __future__ import annotations

import array
import json
import zlib
from typing import Any

from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files


@spec_lib.spec
class InMemory:
  """These rows, in order.

  Attributes:
    rows: one dict of plain values for each row.
  """

  rows: tuple

  def open(self) -> InMemoryRows:
    return InMemoryRows(self.rows)

  def makes(self) -> tuple[str, ...]:
    """The columns that all rows have."""
    names = [set(row) for row in self.rows]
    return tuple(sorted(set.intersection(*names))) if names else ()


class InMemoryRows:
  """The rows of an `InMemory` source."""

  def __init__(self, rows: tuple):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return dict(self._rows[i])

  def digests(self) -> array.array:
    """uint16[rows], of what is written down."""
    texts = (json.dumps(spec_lib.to_json(row), sort_keys=True) for row in self._rows)
    return files.row_digests(text.encode("utf-8", "surrogatepass") for text in texts)

  def fingerprint(self) -> str:
    text = json.dumps(spec_lib.to_json(self._rows), sort_keys=True)
    return f"memory:{len(self._rows)}:{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
