"""RefCOCO, RefCOCO+ and RefCOCOg: phrases that refer to an object of a COCO image, and its mask.

The download has its references as pickles, which are read as plain data and never unpickled
(`plain_pickle`). Sentences are the `sent` of the references, splits are unc, unc and umd.

`refcoco_seg/combined` is PaliGemma's training set: a row for each image that is in a train split of
any of the three and in no val or test split, with all objects of the train splits and all sentences
for each. The others have a row for each sentence.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from paligemma_jax.core import errors
from paligemma_jax.regions import rle

from . import build
from . import plain_pickle
from . import raw as raw_lib

_HOMEPAGE = "https://github.com/lichengunc/refer"
# {dataset: (folder of the download, file of the references, splits for evaluation)}
_SETS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
  "refcoco": ("refcoco", "refs(unc).p", ("val", "testA", "testB")),
  "refcoco_plus": ("refcoco+", "refs(unc).p", ("val", "testA", "testB")),
  "refcocog": ("refcocog", "refs(umd).p", ("val", "test")),
}
_FILES = (
  *(f"{folder}.zip, or its {refs} and instances.json" for folder, refs, _ in _SETS.values()),
  "train2014/: the images of COCO 2014 (cocodataset.org), or train2014.zip",
)


class Mask(raw_lib.RawFile):
  """A mask as a PNG of one bit, drawn when its row is written."""

  def __init__(self, what: str, segmentation: Any, height: int, width: int):
    self.name, self._segmentation, self._size = what, segmentation, (height, width)

  def read(self) -> bytes:
    """The PNG.

    Raises:
      DataError: no polygons or run lengths.
    """
    try:
      mask = rle.decode(self._segmentation, *self._size)
    except errors.DataError as e:
      raise errors.DataError(f"{self}: {e}") from None
    file = io.BytesIO()
    PIL.Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()

  def __str__(self) -> str:
    return self.name

  def __repr__(self) -> str:
    return f"Mask({self.name!r})"


class _Download:
  """One of the three: its references, and its images and annotations."""

  def __init__(self, raw: raw_lib.Raw, name: str):
    self.folder, refs, self.eval_splits = _SETS[name]
    file = raw.file(f"{self.folder}/{refs}")
    self.refs = plain_pickle.loads(file.read(), str(file))
    content = raw.json(f"{self.folder}/instances.json")
    self.images = {image["id"]: image for image in content["images"]}
    self.annotations = {a["id"]: a for a in content["annotations"]}
    self._raw = raw
    if not isinstance(self.refs, list) or not all(isinstance(r, dict) for r in self.refs):
      raise errors.DataError(f"{file}: expected a list of references.")

  def image(self, image_id: int) -> raw_lib.RawFile:
    return self._raw.file(f"train2014/{self.images[image_id]['file_name']}")

  def object(self, ref: Mapping[str, Any]) -> dict[str, Any]:
    """The mask and the box (y_min, x_min, y_max, x_max as fractions) of a reference's object."""
    image, annotation = self.images[ref["image_id"]], self.annotations[ref["ann_id"]]
    height, width = image["height"], image["width"]
    x, y, w, h = annotation["bbox"]
    box = np.array([y / height, x / width, (y + h) / height, (x + w) / width], np.float32)
    what = f"{self.folder}/instances.json: annotation {annotation['id']}"
    mask = Mask(what, annotation["segmentation"], height, width)
    return {"mask": mask, "box": box.clip(0, 1)}

  def sentences(self, ref: Mapping[str, Any]) -> list[str]:
    return [sentence["sent"] for sentence in ref["sentences"]]


def flat_features() -> dict[str, Any]:
  """The columns of a row for each sentence."""
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "question_id": tfds.features.Scalar(np.int64),  # The sentence's id.
    "sentence": tfds.features.Text(),
    "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
    "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
  }


def flat_splits(raw: raw_lib.Raw, name: str) -> dict[str, list[build.Record]]:
  """The evaluation splits of one of the three, in the order of the references."""
  download = _checked(raw, name)
  made: dict[str, list[build.Record]] = {split: [] for split in download.eval_splits}
  for ref in download.refs:
    if ref["split"] not in made:
      continue
    row = {"image": download.image(ref["image_id"]), "image_id": ref["image_id"]}
    row |= download.object(ref)
    for sentence in ref["sentences"]:
      made[ref["split"]].append(
        {**row, "sentence": sentence["sent"], "question_id": sentence["sent_id"]}
      )
  return made


def combined_features() -> dict[str, Any]:
  """The columns of a row for each image: masks, boxes and texts, each with a sentence a line.

  (Writing lists of lists needs TensorFlow.)
  """
  return {
    "image": tfds.features.Image(),
    "image_id": tfds.features.Scalar(np.int64),
    "masks": tfds.features.Sequence(
      tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    ),
    "boxes": tfds.features.Sequence(tfds.features.Tensor(shape=(4,), dtype=np.float32)),
    "sentences": tfds.features.Sequence(tfds.features.Text()),
  }


def combined_splits(raw: raw_lib.Raw) -> dict[str, list[build.Record]]:
  """train, in the order of the first references."""
  downloads = [_checked(raw, name) for name in _SETS]
  held_out = {r["image_id"] for d in downloads for r in d.refs if r["split"] != "train"}
  rows: dict[int, dict[str, Any]] = {}
  objects: dict[int, dict[int, list[str]]] = {}  # {image: {annotation: sentences}}
  for download in downloads:
    for ref in download.refs:
      image_id = ref["image_id"]
      if image_id in held_out:
        continue
      if image_id not in rows:
        rows[image_id] = {"image": download.image(image_id), "image_id": image_id}
        rows[image_id] |= {"masks": [], "boxes": [], "sentences": []}
        objects[image_id] = {}
      if ref["ann_id"] not in objects[image_id]:
        found = download.object(ref)
        rows[image_id]["masks"].append(found["mask"])
        rows[image_id]["boxes"].append(found["box"])
        rows[image_id]["sentences"].append([])
        objects[image_id][ref["ann_id"]] = rows[image_id]["sentences"][-1]
      sentences = objects[image_id][ref["ann_id"]]
      sentences += [s for s in download.sentences(ref) if s not in sentences]
  return {
    "train": [
      {**row, "sentences": ["\n".join(sentences) for sentences in row["sentences"]]}
      for row in rows.values()
    ]
  }


def _checked(raw: raw_lib.Raw, name: str) -> _Download:
  """The download, after its references were checked."""
  download = _Download(raw, name)
  for n, ref in enumerate(download.refs):
    try:
      sentences = [(s["sent"], s["sent_id"]) for s in ref["sentences"]]
      good = all(isinstance(text, str) and isinstance(key, int) for text, key in sentences)
      good &= isinstance(ref["split"], str) and bool(sentences)
      download.object(ref)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as e:
      good, what = False, f": {type(e).__name__}: {e}"
    else:
      what = ""
    if not good:
      raise errors.DataError(f"{download.folder}: reference {n} is not as expected{what}.")
  return download


DATASETS = (
  build.Dataset(
    name="refcoco_seg/combined",
    homepage=_HOMEPAGE,
    files=_FILES,
    features=combined_features,
    splits=combined_splits,
  ),
  *(
    build.Dataset(
      name=f"refcoco_seg/{name}",
      homepage=_HOMEPAGE,
      files=_FILES,
      features=flat_features,
      splits=functools.partial(flat_splits, name=name),
    )
    for name in _SETS
  ),
)
