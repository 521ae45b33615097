"""Columns of a row that nobody reads: most often a config that forgot them."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.data import examples

_READ_AT_END = ("image", "prefix", "suffix")
# Columns that Coco, Yolo and Voc give to whoever wants them.
_USUAL = {"image_path", "image_id", "height", "width", "boxes", "labels", "areas", "crowd", "masks"}
_NUM_SHOWN = 8


def warnings(rows: Any, ops: Sequence[Any], evaluators: Sequence[Any]) -> Iterator[str]:
  """One sentence each on columns of the first row that are replaced unread, or never read.

  Args:
    rows: of the training source; those that a source of ours generates are not looked at.
    ops: the row ops of training.
    evaluators: what they and their ops read counts as read.
  """
  if getattr(rows, "generated", False):
    return
  try:
    row = rows[0]
  except errors.DataError:  # Told of when the row's turn comes.
    return
  ops = (*examples.own_ops(rows, 0), *ops)
  replaced, unread = _unread(row, ops)
  for name, op in replaced.items():
    yield (
        f"the column {name!r} of the data is not used: {type(op).__name__} replaces it unread"
        f" ({examples.where_is(rows, 0)}: {str(row[name])[:60]!r})"
    )
  for evaluator in evaluators:
    unread -= {*evaluator.columns(), *(name for op in evaluator.pp for name in op.needs())}
  if unread:
    listed = ", ".join(sorted(unread)[:_NUM_SHOWN]) + (", …" if len(unread) > _NUM_SHOWN else "")
    yield f"columns of the data that are not used: {listed}"


def _unread(row: Mapping[str, Any], ops: Sequence[Any]) -> tuple[dict[str, Any], set[str]]:
  """{column: the op that replaces it unread}, and the columns that nobody reads or replaces."""
  left = {name for name in row if not name.startswith("_")}  # Those that are the source's still.
  replaced, read = {}, set()
  for op in ops:
    read |= left & set(op.needs())
    for name in set(op.makes()) & left:
      left.discard(name)
      if name not in read:
        replaced[name] = op
  read |= left & set(_READ_AT_END)
  own = {name for name in left - read if name not in _USUAL and not _is_told_twice(name, row)}
  return replaced, own - {outer for name in read for outer in [name.partition("/")[0]]}


def _is_told_twice(name: str, row: Mapping[str, Any]) -> bool:
  """Whether a column only repeats another: 'image_path', and 'objects/bbox' beside 'objects'."""
  return name.removesuffix("_path") in row.keys() - {name} or name.partition("/")[0] in (
      row.keys() - {name}
  )
