"""What differs between two nests of plain data, and of specs as JSON: field by field, as text."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

_KIND = "__spec__"
_OURS = "paligemma_jax."
_SHOWN_CHARS = 100
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Difference:
  """One value that differs.

  Attributes:
    path: 'train.pp[1].size'.
    text: 'train.pp[1].size: 224 -> 448'.
  """

  path: str
  text: str


def between(before: Any, after: Any, path: str) -> list[Difference]:
  """The least parts that differ, in order; [] for equal data.

  A spec of the user's is known by its class alone, and not by the module that its class is in,
  whose name depends on where the file lies.

  Args:
    before, after: what `spec.to_json` gives.
    path: what the whole is called.
  """
  if isinstance(before, Mapping) and isinstance(after, Mapping):
    if _kind(before) != _kind(after):
      return [_changed(path, before, after)]
    names = [name for name in dict.fromkeys((*before, *after)) if name != _KIND]
    return [
      found
      for name in names
      for found in between(before.get(name, _ABSENT), after.get(name, _ABSENT), f"{path}.{name}")
    ]
  if _is_list(before) and _is_list(after):
    return _of_lists(list(before), list(after), path)
  return [] if _same(before, after) else [_changed(path, before, after)]


def nameless(value: Any) -> Any:
  """The data without the modules of the user's specs: equal for equal specs, wherever they lie."""
  if isinstance(value, Mapping):
    inside = {name: nameless(v) for name, v in value.items()}
    return {**inside, _KIND: _kind(value)} if _KIND in value else inside
  return [nameless(v) for v in value] if _is_list(value) else value


def shown(value: Any) -> str:
  """'Resize(size=224)' for a spec, else the value as Python writes it; cut when it is long."""
  text = _text(value)
  return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _of_lists(before: list[Any], after: list[Any], path: str) -> list[Difference]:
  if len(before) == len(after):
    return [
      found
      for i, (old, new) in enumerate(zip(before, after, strict=True))
      for found in between(old, new, f"{path}[{i}]")
    ]
  if len(before) + len(after) > 1000:  # Thousands of plain values: no one reads them.
    return [_changed(path, before, after)]
  keys = [[json.dumps(nameless(v), sort_keys=True) for v in side] for side in (before, after)]
  found = []
  matcher = difflib.SequenceMatcher(None, *keys, autojunk=False)
  for what, i, i_end, j, j_end in matcher.get_opcodes():
    if what == "equal":
      continue
    found += [_said(f"{path}[{k}]", f"{shown(before[k])} is gone") for k in range(i, i_end)]
    found += [_said(f"{path}[{k}]", f"{shown(after[k])} is new") for k in range(j, j_end)]
  return found


def _changed(path: str, before: Any, after: Any) -> Difference:
  return _said(path, f"{shown(before)} -> {shown(after)}")


def _said(path: str, text: str) -> Difference:
  return Difference(path, f"{path}: {text}")


def _kind(value: Mapping[str, Any]) -> str:
  kind = str(value.get(_KIND, ""))
  return kind if kind.startswith(_OURS) else kind.rpartition(":")[2]


def _same(before: Any, after: Any) -> bool:
  return before == after and isinstance(before, bool) == isinstance(after, bool)


def _is_list(value: Any) -> bool:
  return isinstance(value, (list, tuple))


def _text(value: Any) -> str:
  if value is _ABSENT:
    return "(absent)"
  if isinstance(value, Mapping) and _KIND in value:
    fields = ", ".join(f"{k}={_text(v)}" for k, v in value.items() if k != _KIND)
    return f"{str(value[_KIND]).rpartition(':')[2]}({fields})"
  if isinstance(value, Mapping):
    return "{" + ", ".join(f"{k!r}: {_text(v)}" for k, v in value.items()) + "}"
  if _is_list(value):
    inside = ", ".join(map(_text, value))
    return f"({inside},)" if len(value) == 1 else f"({inside})"
  return repr(value)
