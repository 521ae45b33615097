"""One example of a batch: the row is read, the ops are applied, the text is laid out.

A row that cannot be used does not raise here, in a thread or another process and out of order: the
example carries the reason, and the loader acts on it in the order of the batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.data import order
from paligemma_jax.data import text_encoding
from paligemma_jax.data import tokenizer as tokenizer_lib
from paligemma_jax.sources import jsonl

NOTES = "_notes"  # The column in which ops report what they decided ("alpha_dropped").


@dataclasses.dataclass(frozen=True)
class Example:
  """One place of the global batch."""

  row: int  # -1 past the last row.
  arrays: dict[str, np.ndarray] | None = None  # Of image and encoding; None: the row is not used.
  rejected: str = ""  # Why the row is bad; '' when it is not.
  dropped: bool = False  # The row is not used because its text is too long.
  failed: str = ""  # Why the run cannot go on: an op is broken, the config is wrong.
  where: str = ""  # File and line, or row number, for messages.
  notes: tuple[str, ...] = ()  # 'truncated', 'alpha_dropped', ….
  kept: dict[str, Any] = dataclasses.field(default_factory=dict)  # The columns to keep.


@dataclasses.dataclass(frozen=True)
class ExampleMaker:
  """Makes examples from row numbers. Picklable and stateless, for threads and processes."""

  rows: protocols.Rows
  ops: tuple[protocols.Op, ...]  # Applied in order, after those of the row.
  tokenizer: tokenizer_lib.Tokenizer
  encoding: str  # "train" or "decode".
  text_len: int  # L, without the extra token of training.
  overflow: str  # What to do with longer text, see text_encoding.
  seed: int  # The run's, from which the ops' random numbers are drawn.
  keep: tuple[str, ...] = ()  # Columns to keep beside the arrays.

  def __call__(self, epoch: int, row: int) -> Example:
    """The example of this row in this epoch."""
    where = protocols.where(self.rows, row)
    doing: Any = "reading the row"  # Or the op that runs.
    ops = (*protocols.own_ops(self.rows, row), *self.ops)
    try:
      columns = dict(self.rows[row])
      columns.update(_seed=self.seed, _epoch=epoch, _row=row)
      rng = order.row_rng(self.seed, epoch, row)
      for op in ops:
        doing = op
        columns = op(columns, rng)
      doing = "making the example"
      notes = (*columns.get(NOTES, ()), *_text_notes(columns, self.encoding))
      image = _checked_image(_column(columns, "image", ops))
      laid_out, cut = self._lay_out(columns, ops)
      if laid_out is None:
        return Example(row, dropped=True, where=where)
      kept = {name: _column(columns, name, ops) for name in self.keep}
      notes += ("truncated",) if cut else ()
      arrays = {"image": image, **laid_out}
      return Example(row, arrays, where=where, notes=notes, kept=kept)
    except errors.DataError as e:
      return Example(row, rejected=str(e).removeprefix(f"{where}: "), where=where)
    except errors.ConfigError as e:
      return Example(row, failed=f"{where}: {e}", where=where)
    except Exception as e:  # An op of the user's can raise anything.
      doing = doing if isinstance(doing, str) else f"op {doing!r}"
      return Example(row, failed=f"{where}: {doing} failed: {type(e).__name__}: {e}", where=where)

  def precheck(self, row: int) -> str:
    """Why the row is bad, as far as that is known without decoding images; '' if it seems good.

    Ops that read or make images are left out, and what they would make is not checked.
    """
    where = protocols.where(self.rows, row)
    ops = (*protocols.own_ops(self.rows, row), *self.ops)
    try:
      columns = dict(self.rows[row])
      columns.update(_seed=self.seed, _epoch=0, _row=row)
      images = {name for name, value in columns.items() if _is_image(value)}
      rng = order.row_rng(self.seed, 0, row)
      for op in ops:
        if images.isdisjoint(op.needs()):
          columns = op(columns, rng)
          continue
        if hasattr(op, "precheck"):
          op.precheck(columns)
        images.update(op.makes())
      texts = ("prefix",) if self.encoding == "decode" else ("prefix", "suffix")
      if images.isdisjoint(texts) and all(name in columns for name in texts):
        self._lay_out(columns, ops)
    except errors.DataError as e:
      return str(e).removeprefix(f"{where}: ")
    except Exception:  # A broken op or config is reported when the row is used.
      return ""
    return ""

  def _lay_out(
    self, columns: dict[str, Any], ops: Sequence[Any]
  ) -> tuple[dict[str, np.ndarray] | None, bool]:
    question = text_encoding.prefix_ids(self.tokenizer, _text(columns, "prefix", ops))
    text_len, overflow = self.text_len, self.overflow
    if self.encoding == "decode":  # The answer is never in the prompt, whatever the row holds.
      prompt = text_encoding.lay_out_prompt(question, [], text_len=text_len, overflow=overflow)
      return prompt, len(question) > text_len
    answer, supervised = text_encoding.answer_of(self.tokenizer, _suffix(columns, ops))
    laid_out = text_encoding.lay_out_train(
      question, answer, supervised, text_len=text_len, overflow=overflow
    )
    return laid_out, len(question) + len(answer) > text_len + 1


def name_of(rows: protocols.Rows, row: int) -> str:
  """'row 22 (train.jsonl:23)', for messages."""
  where, number = protocols.where(rows, row), f"row {row}"
  return where if where.startswith(number) else f"{number} ({where})"


def _is_image(value: Any) -> bool:
  """Whether a column holds images: files, pixels, or lists of them."""
  first = value[0] if isinstance(value, (list, tuple)) and value else value
  return isinstance(first, (bytes, np.ndarray))


def _text_notes(columns: Mapping[str, Any], encoding: str) -> tuple[str, ...]:
  """What is odd about the texts of a row, as `trainer.bad_rows` explains it."""
  suffix = columns.get("suffix") if encoding == "train" else ""
  if isinstance(suffix, (list, tuple)):
    suffix = "".join(str(piece[0]) for piece in suffix if piece)
  texts = [text for text in (columns.get("prefix"), suffix) if isinstance(text, str)]
  notes: tuple[str, ...] = ()
  if any(marker in text for text in texts if "<" in text for marker in text_encoding.MARKERS):
    notes += ("marker_in_text",)
  if any(text.endswith("\n") for text in texts):
    notes += ("newline_at_end",)
  return notes


def _column(columns: dict[str, Any], name: str, ops: Sequence[Any]) -> Any:
  try:
    return columns[name]
  except KeyError:
    known = [c for c in columns if not c.startswith("_")]
    made_by = ", ".join(type(op).__name__ for op in ops) or "there are none"
    raise errors.ConfigError(
      f"the row has no {name!r} after the ops ({made_by}).{errors.did_you_mean(name, known)}"
      f"{jsonl.chat_hint(columns, 'FILE')}"
    ) from None


def _text(columns: dict[str, Any], name: str, ops: Sequence[Any]) -> str:
  value = _column(columns, name, ops)
  if not isinstance(value, str):
    raise errors.DataError(
      f"column {name!r}: expected text, found {type(value).__name__} {str(value)[:60]!r}."
    )
  return value


def _suffix(columns: dict[str, Any], ops: Sequence[Any]) -> text_encoding.Suffix:
  """A text, or pieces (text, supervised) of one."""
  value = _column(columns, "suffix", ops)
  if not isinstance(value, (list, tuple)):
    return _text(columns, "suffix", ops)
  for piece in value:
    good = isinstance(piece, (list, tuple)) and len(piece) == 2
    if not good or not isinstance(piece[0], str) or not isinstance(piece[1], bool):
      raise errors.DataError(
        f"column 'suffix': expected text or pieces (text, supervised), found {str(piece)[:60]!r}."
      )
  return value


def _checked_image(image: Any) -> np.ndarray:
  shape: tuple[int, ...] = image.shape if isinstance(image, np.ndarray) else ()
  good = len(shape) in (3, 4) and shape[-1] == 3 and shape[-2] == shape[-3] and 0 not in shape
  if not good or image.dtype != np.uint8:
    has_shape = hasattr(image, "shape")
    found = f"{image.dtype}{list(image.shape)}" if has_shape else type(image).__name__
    raise errors.ConfigError(
      f"after the ops 'image' is {found}; expected uint8[R, R, 3] or uint8[F, R, R, 3]"
      " (do the ops hold Decode and Resize?)."
    )
  return np.ascontiguousarray(image)


_READ_AT_END = ("image", "prefix", "suffix")
# Optional columns of Coco, Yolo and Voc.
_USUAL = {"image_path", "image_id", "height", "width", "boxes", "labels", "areas", "crowd", "masks"}
_NUM_SHOWN = 8


def warnings(
  rows: protocols.Rows, ops: Sequence[protocols.Op], evaluators: Sequence[protocols.Evaluator]
) -> Iterator[str]:
  """One sentence each on columns of the first row of training that are replaced unread or not read.

  Generated rows are not checked. What the evaluators or their ops read counts as read.
  """
  if isinstance(rows, protocols.CanBeGenerated) and rows.generated:
    return
  try:
    row = rows[0]
  except errors.DataError:  # Reported when the row is used.
    return
  ops = (*protocols.own_ops(rows, 0), *ops)
  replaced, unread = _unread(row, ops)
  for name, op in replaced.items():
    yield (
      f"the column {name!r} of the data is not used: {type(op).__name__} replaces it unread"
      f" ({protocols.where(rows, 0)}: {str(row[name])[:60]!r})"
    )
  for evaluator in evaluators:
    unread -= {*evaluator.columns(), *(name for op in evaluator.pp for name in op.needs())}
  if unread:
    listed = ", ".join(sorted(unread)[:_NUM_SHOWN]) + (", …" if len(unread) > _NUM_SHOWN else "")
    yield f"columns of the data that are not used: {listed}"


def _unread(row: Mapping[str, Any], ops: Sequence[Any]) -> tuple[dict[str, Any], set[str]]:
  """{column: the op that replaces it unread}, and the columns that are never read or replaced."""
  left = {name for name in row if not name.startswith("_")}  # Not replaced so far.
  replaced, read = {}, set()
  for op in ops:
    read |= left & set(op.needs())
    for name in set(op.makes()) & left:
      left.discard(name)
      if name not in read:
        replaced[name] = op
  read |= left & set(_READ_AT_END)
  own = left - read - _USUAL - {name.partition("/")[0] for name in read}
  # A column may only repeat another: 'image_path', and 'objects/bbox' beside 'objects'.
  repeats = {name: {name.removesuffix("_path"), name.partition("/")[0]} - {name} for name in own}
  return replaced, {name for name in own if repeats[name].isdisjoint(row)}
