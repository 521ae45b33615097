"""The columns of a row as ops read them: a missing or wrong value rejects the row with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

NOTES = "_notes"
MAX_ROW_ITEMS = 1000  # Images or masks of one row.
MAX_ROW_PIXELS = 75_000_000  # Of all its images.
MAX_MASK_PIXELS = 256_000_000  # Of all its masks.
_MAX_LIST_TEXT = 1 << 20  # Characters of a list that is written as a text.
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class Op:
  """An op of ours, whose columns are what its fields hold: a name, several, or '' for none.

  `key` is the column that is read and `out` the one that is written, where an op does not say more.
  """

  reads: ClassVar[tuple[str, ...]] = ("key",)  # Fields that name the columns it needs.
  writes: ClassVar[tuple[str, ...]] = ("out",)  # Fields that name the columns it makes.
  choices: ClassVar[tuple[tuple[str, tuple[str, ...]], ...]] = ()  # Fields and their legal values.

  def __post_init__(self):
    for field, legal in self.choices:
      errors.pick(dict.fromkeys(legal), getattr(self, field), f"{field} of {type(self).__name__}")

  def needs(self) -> tuple[str, ...]:
    return self._columns(self.reads)

  def makes(self) -> tuple[str, ...]:
    return self._columns(self.writes) or self.needs()  # An `out` of '' is `key`.

  def _columns(self, fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for field in fields for name in names(getattr(self, field)) if name)


def names(value: str | tuple[str, ...]) -> tuple[str, ...]:
  return (value,) if isinstance(value, str) else tuple(value)


def get(row: Mapping[str, Any], name: str) -> Any:
  """The column's value; DataError when it is absent or null."""
  value = row.get(name)
  if value is None:
    known = [c for c in row if not c.startswith("_")]
    what = "is null" if name in row else "is missing"
    raise errors.DataError(f"column {name!r} {what}.{errors.did_you_mean(name, known)}")
  return value


def text(row: Mapping[str, Any], name: str) -> str:
  """The column's text; DataError when it is something else."""
  return as_text(get(row, name), name)


def as_text(value: Any, name: str) -> str:
  """The text of a value of column `name`: a text, UTF-8 bytes or a number."""
  if isinstance(value, str):
    return value
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      raise errors.DataError(f"column {name!r}: bytes that are not UTF-8.") from None
  if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
    return str(value)
  raise wrong(name, "text", value)


def texts(row: Mapping[str, Any], name: str) -> list[str]:
  """The texts in the column's list; DataError when it is no list of them, or empty."""
  return [as_text(value, name) for value in options(row, name)]


def listed(value: Any) -> Any:
  """The value; a JSON text of a list, as in CSV files, is parsed."""
  if isinstance(value, str) and value.lstrip().startswith("[") and len(value) < _MAX_LIST_TEXT:
    try:
      found = strict_json.parse(value)
    except strict_json.Malformed:
      return value
    return found if isinstance(found, list) else value
  return value


def options(row: Mapping[str, Any], name: str) -> list[Any]:
  """The column's list; DataError when it is no list or empty."""
  values = entries(get(row, name), name)
  if not values:
    raise errors.DataError(f"column {name!r} is an empty list.")
  return values


def entries(value: Any, name: str) -> list[Any]:
  """The entries of a list in column `name`; DataError when it is no list."""
  value = listed(value)
  if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
    return list(value)
  if isinstance(value, str) and value.lstrip().startswith("["):
    raise wrong(name, "a list, or one that is written as JSON", value)
  raise wrong(name, "a list", value)


def alike(row: Mapping[str, Any], columns: Sequence[str]) -> list[list[Any]]:
  """The lists in these columns; DataError when their lengths differ."""
  lists = [entries(get(row, name), name) for name in columns]
  if len({len(values) for values in lists}) > 1:
    lengths = (f"{name!r} {len(values)}" for name, values in zip(columns, lists, strict=True))
    raise errors.DataError(f"lists of different lengths: {', '.join(lengths)}.")
  return lists


def labels(row: Mapping[str, Any], name: str, num: int) -> list[str]:
  """The labels of `num` objects: one for each, or one text for all of them."""
  value = listed(get(row, name))
  values = [value] * num if isinstance(value, (str, bytes)) else entries(value, name)
  return [as_text(v, name) for v in values]


def box(value: Any, name: str) -> tuple[float, ...]:
  """The four numbers of a box in column `name`."""
  try:
    numbers = tuple(float(v) for v in listed(value))
  except (TypeError, ValueError):
    numbers = ()
  if len(numbers) != 4:
    raise wrong(name, "a box of four numbers", value)
  return numbers


def whole(value: Any, name: str) -> int:
  """A whole number, possibly as 2.0 or "2"; DataError for anything else."""
  found = value
  if isinstance(value, str) and _WHOLE.fullmatch(value):
    found = int(value)
  if isinstance(found, (float, np.floating)) and float(found).is_integer():
    found = int(found)
  if not isinstance(found, (int, np.integer)) or isinstance(found, bool):
    raise wrong(name, "a whole number", value)
  return int(found)


def image(row: Mapping[str, Any], name: str) -> np.ndarray:
  """The column's decoded image, uint8[H, W, 3] or uint8[F, H, W, 3]."""
  value = get(row, name)
  if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (3, 4):
    if value.shape[-1] == 3 and value.size:
      return value
  raise wrong(name, "a decoded image, uint8[H, W, 3] (is a Decode op missing?)", value)


def wrong(name: str, expected: str, value: Any) -> errors.DataError:
  """The error for a value that is not as expected."""
  found = type(value).__name__
  if isinstance(value, np.ndarray):
    found = f"{value.dtype}{list(value.shape)}"
  shown = "" if isinstance(value, (bytes, np.ndarray)) else f" {str(value)[:60]!r}"
  return errors.DataError(f"column {name!r}: expected {expected}, found {found}{shown}.")


def noted(row: Mapping[str, Any], notes: Iterable[str]) -> dict[str, Any]:
  """The column of the row's remarks with these added, each once; {} without new ones."""
  new = tuple(dict.fromkeys(notes))
  return {NOTES: (*row.get(NOTES, ()), *new)} if new else {}
