"""Pickle files of plain data, read without unpickling, which could execute code.

Some official downloads are pickles (RefCOCO's refs). Here the standard library's disassembler lists
the instructions; those that build lists, dicts, tuples, texts and numbers are followed, and any
other, such as one that imports or calls something, is an error.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from paligemma_jax.core import errors

_MARK = object()  # On the stack: the start of the entries of a list or dict.

# Instructions whose argument is the value.
_VALUES = frozenset(
  "INT LONG BININT BININT1 BININT2 LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE"
  " BINUNICODE8 BINSTRING SHORT_BINSTRING STRING".split()
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "MARK": lambda: _MARK,
}  # fmt: skip
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def loads(data: bytes, where: str) -> Any:
  """The value in a pickle of lists, dicts, tuples, texts and numbers.

  Raises:
    DataError: the pickle, `where` in the message, holds anything else or is damaged.
  """
  stack: list[Any] = []
  memo: dict[int, Any] = {}
  try:
    for instruction, argument, position in pickletools.genops(data):
      if instruction.name == "STOP":
        (value,) = stack
        return value
      _follow(instruction.name, argument, stack, memo, f"{where}: byte {position}")
  except errors.DataError:
    raise
  except Exception as e:  # Of pickletools, or of an unexpected stack: many types.
    raise errors.DataError(f"{where} is no intact pickle: {type(e).__name__}: {e}.") from None
  raise errors.DataError(f"{where} is no intact pickle: it ends without STOP.")


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any], where: str) -> None:
  if name in _VALUES:
    stack.append(argument)
  elif name in _CONSTANTS:
    stack.append(_CONSTANTS[name]())
  elif name in _PUTS:
    memo[argument] = stack[-1]
  elif name == "MEMOIZE":
    memo[len(memo)] = stack[-1]
  elif name in _GETS:
    stack.append(memo[argument])
  elif name == "APPEND":
    value = stack.pop()
    stack[-1].append(value)
  elif name == "APPENDS":
    values = _since_mark(stack)
    stack[-1].extend(values)
  elif name == "SETITEM":
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value
  elif name == "SETITEMS":
    values = _since_mark(stack)
    stack[-1].update(zip(values[::2], values[1::2], strict=True))
  elif name == "LIST":
    stack.append(_since_mark(stack))
  elif name == "DICT":
    values = _since_mark(stack)
    stack.append(dict(zip(values[::2], values[1::2], strict=True)))
  elif name == "TUPLE":
    stack.append(tuple(_since_mark(stack)))
  elif name in _TUPLES:
    values = [stack.pop() for _ in range(_TUPLES[name])]
    stack.append(tuple(reversed(values)))
  elif name not in ("PROTO", "FRAME"):
    raise errors.DataError(
      f"{where}: the instruction {name} is not of plain data, and is not followed, as it could run"
      " any code."
    )


def _since_mark(stack: list[Any]) -> list[Any]:
  """Pops the values above the last mark, and the mark."""
  values: list[Any] = []
  while (value := stack.pop()) is not _MARK:
    values.append(value)
  return values[::-1]
