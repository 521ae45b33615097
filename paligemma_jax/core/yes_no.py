"""A yes or no as files of data sets write it: 0 and 1, true and false, as values or as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors

_WORDS: Mapping[bool, tuple[Any, ...]] = {
    True: (1, "1", "true", "yes"),  # 1 is True and 1.0, too.
    False: (0, "0", "", "false", "no"),
}


def read(value: Any, what: str) -> bool:
  """The yes or no; None is no.

  Raises:
    DataError: anything else; `what` names it.
  """
  found = value.strip().lower() if isinstance(value, str) else value
  for answer, words in _WORDS.items():
    if any(isinstance(found, str) == isinstance(word, str) and found == word for word in words):
      return answer
  if value is None:
    return False
  raise errors.DataError(f"{what} is {str(value)[:60]!r}; expected 0 or 1.")
