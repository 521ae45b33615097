"""Parameters by name: flattens nested dicts to `a/b/c` and back, and matches regexes to names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paligemma_jax.core import errors


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{'a': {'b': x}} -> {'a/b': x}, names sorted."""
  flat = {}
  for key in sorted(tree):
    value = tree[key]
    if isinstance(value, Mapping):
      flat.update(flatten(value, f"{prefix}{key}/"))
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{'a/b': x} -> {'a': {'b': x}}."""
  tree: dict[str, Any] = {}
  for name in sorted(flat):
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = flat[name]
  return tree


def compile_regex(pattern: str, what: str) -> re.Pattern[str]:
  """The compiled pattern, or a ConfigError that names `what` and the pattern."""
  try:
    return re.compile(pattern)
  except (re.error, TypeError) as e:
    raise errors.ConfigError(f"{what}: {pattern!r} is not a regular expression: {e}.") from None


def matches(patterns: Sequence[str], names: Iterable[str], what: str) -> set[str]:
  """The names that a pattern matches in full; a ConfigError names `what` where one has no match."""
  names = list(names)
  found: set[str] = set()
  for pattern in patterns:
    regex = compile_regex(pattern, what)
    hits = {name for name in names if regex.fullmatch(name)}
    if not hits:
      raise errors.ConfigError(
        f"{what}: the regex {pattern!r} matches no parameter. It must match a whole name"
        f" (as 'img/.*' does).{_name_hint(pattern, names)}"
      )
    found |= hits
  return found


def first_match(
  rules: Sequence[tuple[str, Any]], names: Iterable[str], what: str
) -> dict[str, Any]:
  """{name: the value of the first rule that matches it in full}, without names of no rule.

  A ConfigError when a regex matches no name, whatever the earlier rules match.
  """
  names = list(names)
  found = [(matches([pattern], names, what), value) for pattern, value in rules]
  chosen = {}
  for name in names:
    for hits, value in found:
      if name in hits:
        chosen[name] = value
        break
  return chosen


def _name_hint(pattern: str, names: list[str]) -> str:
  plain = re.sub(r"[\\^$.*+?()\[\]{}|]+", "", pattern)
  part = plain.strip("/")
  shown = errors.near(plain, names) or [n for n in names if part and part in n][:3] or names[:3]
  return f" Names look like {', '.join(repr(n) for n in shown)}." if shown else ""
