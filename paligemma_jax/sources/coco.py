"""Detection and segmentation in COCO's format: one JSON file, and a folder of images."""

from __future__ import annotations

import array
import functools
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import disk
from paligemma_jax.core import errors
from paligemma_jax.core import rle
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.sources import digests
from paligemma_jax.sources import files
from paligemma_jax.sources import pictures

_MAX_BYTES = 4 << 30


@spec_lib.spec
class Coco:
  """One row for each image of an annotation file, in the file's order.

  Columns: see `sources.pictures`. Bounding boxes are read as COCO has them (x, y, width, height in
  pixels), masks from polygons and both kinds of run lengths. An image without annotations has empty
  lists.

  Attributes:
    path: the file, as instances_train2017.json.
    images: the folder of the images' `file_name`s; '' is that of `path`.
    masks: True adds the masks.
    crowd: False leaves crowds out: they are regions, no objects to learn.
  """

  path: str
  images: str = ""
  masks: bool = False
  crowd: bool = True

  def open(self) -> CocoRows:
    """Reads the file.

    Raises:
      ConfigError: the file cannot be read.
      DataError: it is not of COCO's format; says where.
    """
    return CocoRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns of every row."""
    return pictures.names(self.masks)


class CocoRows:
  """The rows of a `Coco`. Picklable; holds the annotations as one JSON text per image."""

  def __init__(self, source: Coco):
    self._spec = source
    self._root = source.images or os.path.dirname(source.path) or "."
    files.is_remote(self._root)  # An address of another scheme is an error now.
    data = _read(source.path)
    self._crc = zlib.crc32(data)
    content = _parsed(data, source.path)
    self._names = _categories(content, source.path)
    self._images, by_id = _images(content, source.path)
    annotations: list[list[Any]] = [[] for _ in self._images]
    for n, annotation in enumerate(_list(content, "annotations", source.path)):
      image_id = annotation.get("image_id")
      if type(image_id) not in (int, str) or image_id not in by_id:
        raise errors.DataError(
            f"{source.path}: annotations[{n}] is of image_id {image_id!r}, which is no image's id."
        )
      kept = {k: annotation.get(k) for k in ("bbox", "category_id", "area", "iscrowd")}
      if source.masks:
        kept["segmentation"] = annotation.get("segmentation")
      if source.crowd or not kept["iscrowd"]:
        annotations[by_id[image_id]].append((n, kept))
    self._annotations = [json.dumps(found).encode() for found in annotations]

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    image_id, name, *said = self._images[i]
    try:
      data = files.read_under(self._root, name)
      size = pictures.size_of(data)
      if None not in said and tuple(said) != size:
        raise errors.DataError(
            f"the file is {size[1]} x {size[0]} pixels, the annotations are for {said[1]} x"
            f" {said[0]}."
        )
      budget = rle.Budget()
      things = [self._thing(n, a, size, budget) for n, a in json.loads(self._annotations[i])]
      return pictures.row(data, name, image_id, size, things, masks=self._spec.masks)
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: {e}") from None

  def where(self, i: int) -> str:
    """What to call a row in a message."""
    image_id, name, *_ = self._images[i]
    return f"{self._spec.path}: image {image_id} ({name!r})"

  def fingerprint(self) -> str:
    """Of the annotation file's content and of what is read of it."""
    return f"coco:{self._spec.masks:d}{self._spec.crowd:d}:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the image's name and size and of its annotations."""
    return digests.of(
        json.dumps([image[1:], [kept for _, kept in json.loads(things)]]).encode()
        for image, things in zip(self._images, self._annotations, strict=True)
    )

  def _thing(
      self, n: int, annotation: Mapping[str, Any], size: tuple[int, int], budget: rle.Budget
  ) -> pictures.Thing:
    box, area = annotation["bbox"], annotation["area"]
    where = f"annotations[{n}]"
    if not isinstance(box, list) or len(box) != 4:
      raise errors.DataError(f"{where}: bbox is {str(box)[:60]!r}; expected [x, y, width, height].")
    x, y, width, height = (pictures.number(v, f"{where}: bbox") for v in box)
    category = annotation["category_id"]
    if type(category) not in (int, str) or category not in self._names:
      raise errors.DataError(f"{where}: category_id {category!r} is no category's id.")
    mask = None
    if annotation.get("segmentation"):
      mask = functools.partial(rle.decode, annotation["segmentation"], *size, budget)
    return pictures.Thing(
        self._names[category],
        (x, y, x + width, y + height),
        0.0 if area is None else pictures.number(area, f"{where}: area"),
        bool(annotation["iscrowd"]),
        mask,
    )


def _read(path: str) -> bytes:
  try:
    if not files.is_remote(path):
      return disk.read(path, max_bytes=_MAX_BYTES)
    with files.file_system(path).open(path, "rb") as f:
      data = f.read(_MAX_BYTES + 1)
  except OSError as e:
    raise errors.ConfigError(f"Cannot read {path!r}: {e.strerror or e}.") from None
  if len(data) > _MAX_BYTES:
    raise errors.ConfigError(f"{path!r} has more than {_MAX_BYTES} bytes.")
  return data


def _parsed(data: bytes, path: str) -> Mapping[str, Any]:
  try:
    content = strict_json.parse_large(data)
  except strict_json.Malformed as e:
    raise errors.DataError(f"{path} is no JSON: {e}.") from None
  if not isinstance(content, dict):
    raise errors.DataError(f"{path}: expected an object with images, annotations and categories.")
  return content


def _list(content: Mapping[str, Any], key: str, path: str) -> list[dict[str, Any]]:
  value = content.get(key)
  if not isinstance(value, list):
    raise errors.DataError(
        f"{path}: expected a list {key!r}, found {type(value).__name__}."
        f"{errors.did_you_mean(key, content)}"
    )
  for n, entry in enumerate(value):
    if not isinstance(entry, dict):
      raise errors.DataError(f"{path}: {key}[{n}] is a {type(entry).__name__}, no object.")
  return value


def _categories(content: Mapping[str, Any], path: str) -> dict[Any, str]:
  names = {}
  for n, category in enumerate(_list(content, "categories", path)):
    key, name = category.get("id"), category.get("name")
    if type(key) not in (int, str) or not isinstance(name, str) or key in names:
      raise errors.DataError(
          f"{path}: categories[{n}] has id {key!r} and name {name!r}; expected an id of its own and"
          " a text."
      )
    names[key] = name
  return names


def _images(content: Mapping[str, Any], path: str) -> tuple[list[tuple], dict[Any, int]]:
  """(id, file name, height, width) of each image, and {id: place in that list}."""
  images, by_id = [], {}
  for n, image in enumerate(_list(content, "images", path)):
    key, name = image.get("id"), image.get("file_name")
    if type(key) not in (int, str) or not isinstance(name, str) or key in by_id:
      raise errors.DataError(
          f"{path}: images[{n}] has id {key!r} and file_name {name!r}; expected an id of its own"
          " and a text."
      )
    by_id[key] = len(images)
    images.append((key, name, image.get("height"), image.get("width")))
  return images, by_id
