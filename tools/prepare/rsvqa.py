"""The files of the two RSVQA benchmarks, and their images, whose format TFDS lacks."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

# Each image has about a hundred questions. This holds all low-resolution images, in 100 MB; of
# high-resolution ones it takes half a gigabyte.
_KEPT_IMAGES = 800


class Png(raw_lib.RawFile):
  """A TIFF file that becomes a PNG when its row is written."""

  def __init__(self, file: raw_lib.RawFile):
    super().__init__(file.name, file._path, file._member)

  def read(self) -> bytes:
    """The image as a PNG.

    Raises:
      DataError: not an image of 8 bits a channel.
    """
    return _kept(self)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Png) and (self._path, self.name) == (other._path, other.name)

  def __hash__(self) -> int:
    return hash((self._path, self.name))

  def __repr__(self) -> str:
    return f"Png({self.name!r})"


@functools.lru_cache(maxsize=_KEPT_IMAGES)
def _kept(file: Png) -> bytes:
  try:
    with PIL.Image.open(io.BytesIO(raw_lib.RawFile.read(file))) as image:
      if image.mode not in ("L", "RGB", "RGBA"):
        raise errors.DataError(f"{file} has pixels of type {image.mode!r}; expected 8 bits.")
      pixels = image.convert("RGB")
  except (OSError, ValueError) as e:
    raise errors.DataError(f"{file} is no image that can be read: {e}") from None
  out = io.BytesIO()
  pixels.save(out, "PNG", compress_level=1)
  return out.getvalue()


def features() -> dict[str, Any]:
  """The columns; `raw_answer` is the answer before numbers become ranges."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question_id": tfds.features.Scalar(np.int64),
    "question": tfds.features.Text(),
    "question_type": tfds.features.Text(),
    "answers": tfds.features.Sequence(tfds.features.Text()),
    "raw_answer": tfds.features.Text(),
  }


def records(
  raw: raw_lib.Raw,
  stem: str,
  *,
  folder: str,
  leave_out: tuple[str, ...],
  in_range: Callable[[str, str], str],
) -> list[build.Record]:
  """The rows of the files `<stem>_questions.json` and `<stem>_answers.json`.

  Args:
    folder: that of the images.
    leave_out: question types to leave out.
    in_range: (question type, answer) → the answer, numbers as ranges.
  """
  questions = raw.json(f"{stem}_questions.json")["questions"]
  answers = {a["id"]: a for a in raw.json(f"{stem}_answers.json")["answers"] if a["active"]}
  rows = []
  for q in questions:
    # Dropped questions are in the files without text or type.
    if not q["active"] or q["type"] in leave_out:
      continue
    answer_id = q["answers_ids"][0]
    if answer_id not in answers:
      raise errors.DataError(
        f"{stem}_answers.json has no answer {answer_id}, which question {q['id']} refers to."
      )
    answer = answers[answer_id]["answer"]
    rows.append({
        "image": _image(raw, folder, q["img_id"]),
        "image_id": q["img_id"],
        "question_id": q["id"],
        "question": q["question"],
        "question_type": q["type"],
        "answers": [in_range(q["type"], answer)],
        "raw_answer": answer,
    })  # fmt: skip
  return rows


def range_of(number: int, unit: str = "") -> str:
  """A count or an area as one of the authors' five ranges."""
  if number == 0:
    return f"0{unit}"
  for low, high in ((1, 10), (11, 100), (101, 1000)):
    if number <= high:
      return f"between {low}{unit} and {high}{unit}"
  return f"more than 1000{unit}"


def _image(raw: raw_lib.Raw, folder: str, image_id: int) -> raw_lib.RawFile:
  found = raw.file(f"{folder}/{image_id}.tif", f"{folder}/{image_id}.png")
  return Png(found) if found.name.endswith(".tif") else found
