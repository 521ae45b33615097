"""What a person who wrote a key that does not exist probably meant."""

from __future__ import annotations

from paligemma_jax.core import errors
from paligemma_jax.core import schema


def unknown_key(key: str, section: str = "") -> str:
  """One sentence: the key does not exist, the nearest that do, with their full dotted paths.

  Args:
    key: the misspelt last part, such as 'lrr'.
    section: where it stood, such as 'optim'; '' for the top.
  """
  path = f"{section}.{key}" if section else key
  here = [f"{section}.{name}" if section else name for name in schema.sections()[section]]
  close = _like(key, here)
  if not close:  # Perhaps the right key in the wrong section: c.lr for c.optim.lr.
    close = _like(key, [*schema.flat(), *schema.SCHEMA])
  if close:
    hint = " Did you mean " + " or ".join(repr(c) for c in close) + "?"
  else:
    hint = f" Known: {', '.join(repr(h) for h in here)}."
  return f"There is no key {path!r}.{hint}"


def _like(key: str, paths: list[str]) -> list[str]:
  """Up to three paths whose last part is like `key`, best first; exact and swapped ones first."""
  by_leaf: dict[str, list[str]] = {}
  for path in paths:
    by_leaf.setdefault(path.rpartition(".")[2], []).append(path)
  leaves = [leaf for leaf in by_leaf if leaf == key]
  leaves += [leaf for leaf in by_leaf if sorted(leaf) == sorted(key) and leaf not in leaves]
  leaves += [leaf for leaf in errors.near(key, by_leaf) if leaf not in leaves]
  return [path for leaf in leaves[:3] for path in dict.fromkeys(by_leaf[leaf])][:3]
