"""Parts of splits by name and range: 'train[:90%]+val', as TFDS and Hugging Face write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from paligemma_jax.core import errors

_PART = re.compile(r"\s*([\w./-]*?)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*")


def names(text: str) -> list[str]:
  """The splits that `text` is made of, in order; '' for one without a name.

  Raises:
    ConfigError: the text is no such expression.
  """
  return [name for name, _, _ in _parts(text)]


def ranges(text: str, sizes: Mapping[str, int]) -> list[tuple[str, range]]:
  """(split, rows of it) for each part of `text`.

  Percentages are rounded to the nearest row; what lies beyond the ends is left out.

  Args:
    sizes: rows of each split that `names` lists.

  Raises:
    ConfigError: the text is no such expression.
  """
  found = []
  for name, start, stop in _parts(text):
    size = sizes[name]
    found.append((name, range(size)[_bound(start, size) : _bound(stop, size)]))
  return found


def _parts(text: str) -> list[tuple[str, str | None, str | None]]:
  parts = []
  for part in text.split("+"):
    match = _PART.fullmatch(part)
    if not match:
      raise errors.ConfigError(
          f"split={text!r}: {part!r} is no part of a split; write 'train', 'train[:90%]',"
          " 'train[-500:]', or several joined by '+'."
      )
    parts.append((match[1], match[2], match[3]))
  return parts


def _bound(text: str | None, size: int) -> int | None:
  if text is None:
    return None
  return round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
