"""Nested columns under 'outer/inner': of a record; of a list of records a list for each field."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 8
IMAGE = {"bytes", "path"}  # The fields of an image as Hugging Face stores it: one value.


def is_record(value: Any) -> bool:
  """Whether a value is a record with fields of its own."""
  return isinstance(value, Mapping) and bool(value) and value.keys() != IMAGE


def is_records(value: Any) -> bool:
  """Whether a value is a list of records with the same fields."""
  if not isinstance(value, list) or not value or not all(map(is_record, value)):
    return False
  return all(part.keys() == value[0].keys() for part in value)


def flat(row: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
  """(column, value) of what is in a row, that of records under 'outer/inner'.

  A list of records is given as it is, and then as a column for each of its fields.
  """
  for name, value in row.items():
    if is_record(value) and depth < _MAX_DEPTH:
      yield from flat(value, f"{above}{name}/", depth + 1)
      continue
    yield above + name, value
    if is_records(value) and depth < _MAX_DEPTH:
      fields = {field: [part[field] for part in value] for field in value[0]}
      yield from flat(fields, f"{above}{name}/", depth + 1)
