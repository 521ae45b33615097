"""What is not one JSON object a line, though it is given as that: said in a sentence, at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import foreign
from paligemma_jax.core import strict_json

HEAD_BYTES = 1 << 16  # Of a file, which is enough to tell.
CHATS = ("messages", "conversations")  # Columns of a row with turns of a conversation.

_CONVERT = "python -m tools.convert_data {kind} {path!r} --out rows.jsonl makes them of it"
_COCO = {"images", "annotations", "categories", "info", "licenses"}


def check(head: bytes, path: str, wanted: Sequence[str]) -> None:
  """Passes JSON lines, and what only its rows can tell.

  Args:
    head: the first HEAD_BYTES of the file.
    wanted: columns that rows must have.

  Raises:
    DataError: an array, objects over several lines, another format, or conversations.
  """
  text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  line, _, rest = text.partition(b"\n")
  if text.startswith(b"["):
    first = _parsed(line)
    if first is None or (not rest.strip() and first and isinstance(first[0], Mapping)):
      raise _error(path, "one JSON array", "json")
  elif text.startswith(b"{"):
    _check_object(text, _parsed(line), path, wanted)
  elif text:
    found, remedy = foreign.image(text)
    if found:
      raise errors.DataError(f"{path} is {found}; expected one JSON object a line. {remedy}.")
    if b"," in line and b"," in rest.partition(b"\n")[0] and b'":' not in line:
      raise _error(path, "a table (CSV)", "csv")


def is_chat(row: Mapping[str, Any]) -> str:
  """The column of a row that holds a conversation; '' where there is none."""
  return next((name for name in CHATS if isinstance(row.get(name), list)), "")


def chat_hint(row: Mapping[str, Any], path: str) -> str:
  """What to say beside "there is no such column" of a row with a conversation; else ''."""
  chat = is_chat(row)
  convert = _CONVERT.format(kind="chat", path=path)
  said = f" The column {chat!r} is of a chat format; rows here have image, prefix and suffix:"
  return f"{said} {convert}." if chat else ""


def _check_object(
    text: bytes, first: Any, path: str, wanted: Sequence[str]
) -> None:
  if first is None:
    first = _leading(text)
    start = text[:200].decode("utf-8", "replace")
    keys = first.keys() if isinstance(first, Mapping) else {k for k in _COCO if f'"{k}"' in start}
    if keys & _COCO and not keys & {"image", "prefix", "suffix"}:
      raise errors.DataError(
          f"{path} is one JSON object with {', '.join(sorted(keys & _COCO))}, as COCO has it;"
          f" expected one object a line. Read it with sources.Coco, or"
          f" {_CONVERT.format(kind='coco', path=path)}."
      )
    if first is not None:
      raise _error(path, "pretty-printed JSON, objects over several lines", "json")
  elif isinstance(first, Mapping) and any(name not in first for name in wanted):
    if hint := chat_hint(first, path):
      missing = next(name for name in wanted if name not in first)
      raise errors.DataError(f"{path}: its rows have no column {missing!r}.{hint}")


def _error(path: str, what: str, kind: str) -> errors.DataError:
  return errors.DataError(
      f"{path} is {what}; expected one JSON object a line:"
      f" {_CONVERT.format(kind=kind, path=path)}."
  )


def _parsed(line: bytes) -> Any:
  try:
    return strict_json.parse(line.rstrip(b"\r"))
  except strict_json.Malformed:
    return None


def _leading(text: bytes) -> Any:
  """The object that a text begins with; None where there is none that ends in it."""
  try:
    return json.JSONDecoder().raw_decode(text.decode("utf-8", "replace"))[0]
  except (ValueError, RecursionError):
    return None
