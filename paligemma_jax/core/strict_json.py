"""Strict JSON: every failure is one exception with a reason.

Python's own reader accepts NaN, repeated keys and numbers of any length, and raises four types.
"""

from __future__ import annotations

import codecs
import collections
import json
import math
import os
from typing import Any

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors

MAX_BYTES = 8 << 20  # Of a file that is read as a whole: at worst 300 MB in Python, in 4 s.
MAX_VALUES = 3_000_000  # Of a larger one: Gemma's tokenizer.json has 2 million in 35 MB.
MAX_DEPTH = 32
MAX_DIGITS = 300  # Of a whole number; the largest float has 309 digits.


class Malformed(ValueError):
  """Text that is no JSON, or JSON that is not accepted here; the message says why."""


def parse(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
  """The value of a JSON text with finite numbers, valid Unicode and unique keys; else Malformed.

  A text of more than MAX_BYTES may have MAX_VALUES values.
  """
  if len(data) > MAX_BYTES:
    signs: Any = (b",", b"[", b"{") if isinstance(data, bytes) else ",[{"
    if sum(map(data.count, signs)) > MAX_VALUES:
      raise Malformed(f"more than {MAX_VALUES} values in {len(data)} bytes")
  try:
    value = _loads(data, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_int)
    _check_values(value, max_depth)
  except RecursionError:
    raise Malformed(f"nested deeper than {max_depth} levels") from None
  return value


def parse_large(data: bytes | str) -> Any:
  """As `parse` for files of gigabytes, without a check of each value; Malformed when no JSON.

  Keys may repeat (the last one counts); numbers may be NaN, infinite or of thousands of digits.
  """
  try:
    return _loads(data.removeprefix(codecs.BOM_UTF8) if isinstance(data, bytes) else data)
  except RecursionError:
    raise Malformed("nested too deeply") from None


def parse_object(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
  """As `parse`; Malformed also when it is no object."""
  value = parse(data, max_depth=max_depth)
  if not isinstance(value, dict):
    raise Malformed(f"expected a JSON object, found a {type(value).__name__}")
  return value


def read_object(
  path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> dict[str, Any]:
  """The JSON object in a regular file of at most `max_bytes`; OSError or Malformed when not."""
  data = atomic_io.read(path, max_bytes=max_bytes).removeprefix(codecs.BOM_UTF8)
  return parse_object(data, max_depth=max_depth)


def reason(error: OSError | ValueError) -> str:
  """Why reading failed, without the path and the full stop."""
  return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _loads(data: bytes | str, **hooks: Any) -> Any:
  try:
    return json.loads(data.decode() if isinstance(data, bytes) else data, **hooks)
  except UnicodeDecodeError as e:
    raise Malformed(f"not UTF-8 at byte {e.start}: {e.object[e.start : e.start + 2]!r}") from None
  except json.JSONDecodeError as e:
    line = f"line {e.lineno}, " if e.lineno > 1 else ""
    raise Malformed(f"not JSON: {e.msg} at {line}column {e.colno}") from None
  except (Malformed, RecursionError):
    raise
  except ValueError:  # Python does not convert thousands of digits.
    raise Malformed("a number of thousands of digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    counts = collections.Counter(key for key, _ in pairs)
    twice = next(key for key, count in counts.items() if count > 1)
    raise Malformed(f"the key {twice!r} stands twice in one object")
  return found


def _no_constant(name: str) -> float:
  raise Malformed(f"{name} is not JSON")


def _int(digits: str) -> int:
  if len(digits) > MAX_DIGITS:
    raise Malformed(f"a number of {len(digits)} digits, the limit is {MAX_DIGITS}")
  return int(digits)


def _check_values(value: Any, max_depth: int) -> None:
  """Checks the depth, and values that JSON can spell but that are not accepted."""
  level: list[Any] = [value]
  for _ in range(max_depth):
    inside: list[Any] = []
    for found in level:
      if isinstance(found, dict):
        inside += found.keys()
        inside += found.values()
      elif isinstance(found, list):
        inside += found
      elif isinstance(found, str):
        check_text(found)
      elif isinstance(found, float) and not math.isfinite(found):
        raise Malformed("a number too large for a float")
    if not inside:
      return
    level = inside
  raise Malformed(f"nested deeper than {max_depth} levels")


def check_text(text: str) -> None:
  """Malformed where a text holds a NUL or half a surrogate pair."""
  if "\0" in text:
    raise Malformed(f"text with a NUL: {text[:40]!r}")
  if not text.isascii():
    try:
      text.encode()
    except UnicodeEncodeError:
      raise Malformed(f"text with half a surrogate pair: {text[:40]!r}") from None


_YES = (1, "1", "true", "yes")  # 1 is True and 1.0, too.
_NO = (0, "0", "false", "no", "", None)


def yes_no(value: Any, what: str) -> bool:
  """True or False for the usual spellings, False for None; else a DataError that names `what`."""
  found = value.strip().lower() if isinstance(value, str) else value
  if found in _YES or found in _NO:
    return found in _YES
  raise errors.DataError(f"{what} is {str(value)[:60]!r}; expected 0 or 1.")
