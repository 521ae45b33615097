"""Two bytes for each row, by which a row that was changed is found."""

from __future__ import annotations

import array
import zlib
from collections.abc import Iterable


def of(rows: Iterable[bytes]) -> array.array:
  """uint16[rows], of the text that each row is made from."""
  return array.array("H", (zlib.crc32(row) & 0xFFFF for row in rows))
