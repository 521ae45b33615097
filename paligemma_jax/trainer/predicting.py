"""Predictions for many rows, written line by line to a JSONL file; an interrupted run resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.trainer import workdir as workdirs

OWN_KEYS = ("row", "prompt", "text", "logprob", "error")
_SETTINGS_SUFFIX, _LOCK_SUFFIX = ".settings.json", ".lock"
_MAX_LINE_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Question:
  """One row.

  image: what `PaliGemma.generate` takes; or the DataError that reading it gave.
  kept: columns that go into the answer's line.
  """

  image: Any
  prompt: str
  kept: Mapping[str, Any]


def from_images(paths: Sequence[str], prompt: str) -> Iterator[Question]:
  """Image files that are all asked the same."""
  for path in paths:
    yield Question(path, prompt, {"image": path})


def from_rows(
  rows: Any, prompt: str, *, start: int, image: str = "image", prefix: str = "prefix"
) -> Iterator[Question]:
  """The rows of a source from `start` on.

  Args:
    prompt: asked where a row has no prefix; '' if each must have one.
    image, prefix: the names of these columns.
  """
  for i in range(start, len(rows)):
    try:
      row = dict(rows[i])
      pixels, path = row.pop(image, None), row.pop(f"{image}_path", None)
      asked = row.get(prefix, prompt)
      if pixels is None or not isinstance(asked, str) or not asked:
        what = image if pixels is None else f"{prefix}, and --prompt is not given"
        raise errors.DataError(f"{rows.where(i)}: there is no {what}.")
      kept = {k: v for k, v in {image: path, **row}.items() if _is_plain(v) and k not in OWN_KEYS}
      # What is called 'objects/bbox' stands in 'objects', too.
      inner = {k for k in kept if k.partition("/")[1] and k.partition("/")[0] in kept}
      yield Question(pixels, asked, {k: v for k, v in kept.items() if k not in inner})
    except errors.DataError as e:
      yield Question(e, prompt, {})


@contextlib.contextmanager
def opened(path: pathlib.Path, settings: Mapping[str, Any]) -> Iterator[Answers]:
  """The file of answers, which no other process writes to until the block ends.

  Args:
    settings: what the answers depend on; a file that was begun with others is refused.

  Raises:
    WorkdirError: the file cannot be written, is a link, or another process writes to it.
    ConfigError: the file was begun with other settings, or is no file of answers.
  """
  path = bucket.place(path)
  if path.exists() and not path.is_file():
    raise errors.WorkdirError(
      f"--out {str(path)!r} is no regular file, which answers must go to: they are read again"
      " when an interrupted run goes on."
    )
  workdirs.make_writable(path.parent, "folder of --out", "--out")
  lock = path.with_name(f".{path.name}{_LOCK_SUFFIX}")
  with workdirs.locked(lock, f"The file of answers {str(path)!r}", "--out"):
    answers = Answers(path, settings)
    try:
      yield answers
    finally:
      answers.close()


class Answers:
  """The file of answers. A line is there when it ends in a newline; a cut one is written again.

  Attributes:
    num_done: lines that are there.
  """

  def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]):
    self._path = path
    self._in_bucket: bucket.Lines | None = None
    beside = path.with_name(f".{path.name}{_SETTINGS_SUFFIX}")
    self.num_done = self._count()
    if self.num_done:
      begun: Any = None
      with contextlib.suppress(OSError, strict_json.Malformed):  # It counts as others.
        begun = strict_json.parse_large(atomic_io.read(beside, max_bytes=_MAX_LINE_BYTES))
      if begun != settings:
        known = begun if isinstance(begun, dict) else {}
        differs = [k for k, v in settings.items() if known.get(k) != v] or ["settings"]
        raise errors.ConfigError(
          f"{path} holds {self.num_done} answers that were made with another"
          f" {' and '.join(differs)}. Remove it, or name another file."
        )
    else:
      atomic_io.write_atomically(beside, json.dumps(settings))

  def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines; they are on disk afterwards.

    Raises:
      StateError: they cannot be written; the same command goes on with them.
    """
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
      if self._in_bucket:
        self._in_bucket.append(atomic_io.to_bytes(text))
      else:
        with os.fdopen(atomic_io.open_own(self._path, flags), "ab") as f:
          f.write(atomic_io.to_bytes(text))
          f.flush()
          os.fsync(f.fileno())
    except OSError as e:
      raise errors.StateError(
        f"{self._path} cannot be written: {e.strerror or e}. It holds {self.num_done} answers;"
        " the same command goes on after them."
      ) from e
    self.num_done += len(lines)

  def _count(self) -> int:
    """Whole lines; what follows the last of them is cut off."""
    count, end = 0, 0
    with self._content() as f:
      while line := f.readline(_MAX_LINE_BYTES):
        is_whole = line.endswith(b"\n")
        begin, problem = f'{{"row": {count}, '.encode(), ""
        if not is_whole and len(line) == _MAX_LINE_BYTES:  # It is not the end that was cut.
          problem = f"the line has more than {_MAX_LINE_BYTES} bytes"
        elif _row(line) != count if is_whole else not line.startswith(begin[: len(line)]):
          problem = f"this is not the answer to row {count}"
        if problem:
          raise errors.ConfigError(
            f"{self._path}:{count + 1}: {problem}, so it is no file of ours. Name another."
          )
        if not is_whole:
          break
        count, end = count + 1, end + len(line)
      f.truncate(end)
      if bucket.is_bucket(self._path):
        f.seek(0)
        self._in_bucket = bucket.Lines(self._path, f.read())
    return count

  def _content(self) -> BinaryIO:
    """What is there, open to be read and cut; of a bucket a copy."""
    try:
      if bucket.is_bucket(self._path):
        return io.BytesIO(bucket.read_growing(self._path))
      return os.fdopen(atomic_io.open_own(self._path, os.O_RDWR), "rb+")
    except FileNotFoundError:
      return io.BytesIO()
    except OSError as e:
      raise errors.WorkdirError(
        f"--out {str(self._path)!r} cannot be written: {e.strerror or e}."
      ) from e

  def close(self) -> None:
    """Writes the file whole, where it is in a bucket."""
    if self._in_bucket:
      self._in_bucket.close()


def run(
  generate: Callable[..., list[Any]],
  questions: Iterator[Question],
  answers: Answers,
  *,
  batch_size: int,
  bad_rows: int,
  note: Callable[[str], None],
) -> int:
  """Answers the questions, which begin at row `answers.num_done`; how many rows were bad.

  A row that cannot be read gets a line with `error`; beyond `bad_rows` of them it ends.

  Args:
    generate: `PaliGemma.generate` without its images, prompts and `first`.
    note: called with a sentence about each bad row.

  Raises:
    DataError: more bad rows than allowed.
  """
  num_bad = 0
  while batch := list(itertools.islice(questions, batch_size)):
    first = answers.num_done
    lines = [{"row": first + i, **q.kept, "prompt": q.prompt} for i, q in enumerate(batch)]
    found = _answered(generate, batch, first)
    for line, answer in zip(lines, found, strict=True):
      if isinstance(answer, errors.DataError):
        num_bad += 1
        note(f"row {line['row']}: {answer}")
        line["error"] = str(answer)
      else:
        line |= {"text": answer.text, "logprob": answer.logprob}
    if num_bad > bad_rows:
      whole = next(i for i, answer in enumerate(found) if isinstance(answer, errors.DataError))
      answers.append(lines[:whole])
      raise errors.DataError(f"{num_bad} bad rows; --bad_rows allows {bad_rows}. {found[whole]}")
    answers.append(lines)
  return num_bad


def _answered(generate, batch: Sequence[Question], first: int) -> list[Any]:
  """A Prediction or a DataError per question."""
  good = [i for i, q in enumerate(batch) if not isinstance(q.image, errors.DataError)]
  found: list[Any] = [q.image for q in batch]
  try:
    predictions = generate(
      [batch[i].image for i in good],
      [batch[i].prompt for i in good],
      rows=[first + i for i in good],
    )
  except errors.DataError as e:
    if len(batch) == 1:
      return [e]
    # One of the images is at fault; alone it is found.
    return [_answered(generate, [q], first + i)[0] for i, q in enumerate(batch)]
  for i, prediction in zip(good, predictions, strict=True):
    found[i] = prediction
  return found


def _is_plain(value: Any) -> bool:
  try:
    json.dumps(value)
  except (TypeError, ValueError):
    return False
  return True


def _row(line: bytes) -> Any:
  try:
    return strict_json.parse_object(line).get("row")
  except strict_json.Malformed:
    return None
