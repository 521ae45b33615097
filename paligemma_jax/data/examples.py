"""One example of a batch: the row is read, the ops are applied, the text is laid out.

A row that cannot be used does not raise here, in a thread or another process and out of order: the
example carries the reason, and the loader acts on it in the order of the batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
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
  """One place of the global batch.

  Attributes:
    row: row number, -1 past the last row.
    arrays: image and the encoding's arrays; None for a row that is not used.
    rejected: why the row is bad; '' when it is not.
    dropped: True when the row is not used because its text is too long.
    failed: why the run cannot go on (an op is broken, the config is wrong); '' when it can.
    where: file and line, or row number, for messages.
    notes: 'truncated', 'alpha_dropped', ….
    kept: the columns of `ExampleMaker.keep`.
  """

  row: int
  arrays: dict[str, np.ndarray] | None = None
  rejected: str = ""
  dropped: bool = False
  failed: str = ""
  where: str = ""
  notes: tuple[str, ...] = ()
  kept: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ExampleMaker:
  """Makes examples from row numbers. Picklable and stateless: threads and processes can share it.

  Attributes:
    rows: the source's rows.
    ops: applied in order; see `pp`.
    tokenizer: turns prefix and suffix into ids.
    encoding: 'train' or 'decode'.
    text_len: L, the text length without the extra token of training.
    overflow: what to do with longer text, see `text_encoding`.
    seed: the run's seed, from which the ops' random numbers are drawn.
    keep: columns to keep beside the arrays.
  """

  rows: protocols.Rows
  ops: tuple[protocols.Op, ...]
  tokenizer: tokenizer_lib.Tokenizer
  encoding: str
  text_len: int
  overflow: str
  seed: int
  keep: tuple[str, ...] = ()

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


# No repr: Grain asks for it often, and all rows are in it.
@dataclasses.dataclass(frozen=True, repr=False)
class ExampleStream:
  """The examples of one process in the order in which they are read, by a running index.

  Attributes:
    make_example: makes an example from a row.
    rows_of_step: step -> the (epoch, row) at each place of the global batch; row -1: none.
    share: the places of the global batch that this process reads.
  """

  make_example: ExampleMaker
  rows_of_step: Callable[[int], list[tuple[int, int]]]
  share: range

  def __call__(self, index: int) -> Example:
    """The example at `index` = step * len(share) + position in the share."""
    epoch, row = self._row_at(index)
    return Example(-1) if row < 0 else self.make_example(epoch, row)

  def name_of(self, index: int) -> str:
    """'row 22 (train.jsonl:23)', for messages."""
    row = self._row_at(index)[1]
    return "the end of the rows" if row < 0 else name_of(self.make_example.rows, row)

  def _row_at(self, index: int) -> tuple[int, int]:
    step, position = divmod(index, len(self.share))
    return self.rows_of_step(step)[self.share[position]]


def name_of(rows: protocols.Rows, row: int) -> str:
  """'row 22 (train.jsonl:23)', for messages."""
  where, number = protocols.where(rows, row), f"row {row}"
  return where if where.startswith(number) else f"{number} ({where})"


def _is_image(value: Any) -> bool:
  """Whether a column of a source holds images: files, pixels, or lists of them."""
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
  """One sentence each on columns of the first row that are replaced unread, or never read.

  Args:
    rows: of the training source; generated ones are not checked.
    ops: the row ops of training.
    evaluators: columns that they or their ops read count as read.
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
  own = {name for name in left - read if name not in _USUAL and not _is_repeated(name, row)}
  return replaced, own - {outer for name in read for outer in [name.partition("/")[0]]}


def _is_repeated(name: str, row: Mapping[str, Any]) -> bool:
  """Whether a column only repeats another: 'image_path', and 'objects/bbox' beside 'objects'."""
  return name.removesuffix("_path") in row.keys() - {name} or name.partition("/")[0] in (
    row.keys() - {name}
  )
