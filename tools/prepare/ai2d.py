"""AI2D: multiple choice about diagrams from school books.

Some questions refer to a part of the diagram by a letter. For those the labels in the image are
replaced with the letters in the annotation, in Pillow's own font.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import tensorflow_datasets as tfds

from paligemma_jax.core import errors

from . import build
from . import raw as raw_lib

_FONT_SIZES = range(100, 3, -1)

Label = tuple[tuple[float, float, float, float], str]


class Lettered(raw_lib.RawFile):
  """A diagram with letters in place of its labels, painted when its row is written."""

  def __init__(self, file: raw_lib.RawFile, labels: tuple[Label, ...]):
    super().__init__(file.name, file._path, file._member)
    self._labels = labels

  def read(self) -> bytes:
    """The image as a PNG.

    Raises:
      DataError: not an image.
    """
    try:
      with PIL.Image.open(io.BytesIO(super().read())) as image:
        painted = _painted(image.convert("RGB"), self._labels)
    except (OSError, ValueError) as e:
      raise errors.DataError(f"Cannot paint letters on {self}: {e}") from None
    out = io.BytesIO()
    painted.save(out, "PNG")
    return out.getvalue()

  def __repr__(self) -> str:
    return f"Lettered({self.name!r}, {self._labels})"


def features() -> dict[str, Any]:
  """The columns."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Text(),
    "question_id": tfds.features.Text(),
    "question": tfds.features.Text(),
    "choices": tfds.features.Sequence(tfds.features.Text()),
    "label": tfds.features.Scalar(np.int64),  # The index of the choice, from 0.
    "answer": tfds.features.Text(),
    "abc_label": tfds.features.Scalar(np.bool_),
  }


def splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """test is the site's list, train the rest."""
  listed = set(raw.file("ai2d_test_ids.csv").read().decode().split())
  made: dict[str, list[build.Record]] = {"train": [], "test": []}
  names = raw.names("ai2d/questions", ".json") or raw.names("ai2d-all/ai2d/questions", ".json")
  if not names:
    raw.file("ai2d/questions/0.png.json")  # Raises the error with its name.
  for name in names:
    image_id = pathlib.PurePosixPath(name).name.partition(".")[0]
    made["test" if image_id in listed else "train"].extend(_records(raw, name, image_id))
  return made


def _records(raw: raw_lib.Raw, name: str, image_id: str) -> Iterator[build.Record]:
  content = raw.json(name)
  folder, _, file = name.rpartition("/questions/")
  image = raw.file(f"{folder}/images/{content['imageName']}")
  labels: tuple[Label, ...] | None = None
  for question, about in content["questions"].items():
    if about["abcLabel"] and labels is None:
      labels = tuple(_labels(raw.json(f"{folder}/annotations/{file}")))
    yield {
      "image": Lettered(image, labels) if about["abcLabel"] else image,
      "image_id": image_id,
      "question_id": about["questionId"],
      "question": question,
      "choices": about["answerTexts"],
      "label": about["correctAnswer"],
      "answer": about["answerTexts"][about["correctAnswer"]],
      "abc_label": about["abcLabel"],
    }


def _labels(annotation: Mapping[str, Any]) -> Iterator[Label]:
  """((left, top, right, bottom), letter) of each text in the image, in pixels."""
  for text in annotation["text"].values():
    (x, y), (x_end, y_end) = text["rectangle"]
    box = (min(x, x_end), min(y, y_end), max(x, x_end), max(y, y_end))
    yield box, text["replacementText"]


def _painted(image: PIL.Image.Image, labels: tuple[Label, ...]) -> PIL.Image.Image:
  """Each label in white, with its letter centred and as large as fits."""
  draw = PIL.ImageDraw.Draw(image)
  for (left, top, right, bottom), letter in labels:
    draw.rectangle((left, top, right, bottom), fill="white")
    for size in _FONT_SIZES:
      font = PIL.ImageFont.load_default(size)
      _, _, width, height = font.getbbox(letter)
      if width <= right - left and height <= bottom - top:
        break
    draw.text((left + max(right - left - width, 0) // 2, top), letter, fill="black", font=font)
  return image


DATASETS = (
  build.Dataset(
    name="ai2d",
    homepage="https://allenai.org/data/diagrams",
    files=(
      "ai2d-all.zip (or its folder ai2d: images, questions, annotations)",
      "ai2d_test_ids.csv",
    ),
    features=features,
    splits=splits,
  ),
)
