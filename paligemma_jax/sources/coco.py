"""Detection and segmentation in COCO's format: one JSON file and a folder of images."""

from __future__ import annotations

import array
import functools
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.regions import rle
from paligemma_jax.sources import annotated_images
from paligemma_jax.sources import files

_MAX_BYTES = 4 << 30
_MAX_DIGITS = 19


@spec_lib.spec
class Coco:
  """One row for each image of an annotation file, in the file's order.

  Columns: see `sources.annotated_images`. Boxes are COCO's (x, y, width, height in pixels), masks
  are polygons or either kind of run lengths. An image without annotations has empty lists; one
  without `file_name` is named by the end of its `coco_url` (LVIS). Annotations of images that are
  not in the file are left out, with a warning.

  Attributes:
    path: the file, as instances_train2017.json.
    images: the folder of the images' `file_name`s; '' is that of `path`.
    masks: True adds the masks.
    crowd: False leaves out crowds, which are regions and not objects.
    exif: the annotations are of the upright images (True), of the stored ones (False), or of those
      that have the file's width and height ("auto"); see `sources.annotated_images`.
    bad_annotations: "error" rejects the row of a wrong annotation; "skip" leaves the annotation
      out, counted and logged.
  """

  path: str
  images: str = ""
  masks: bool = False
  crowd: bool = True
  exif: bool | str = "auto"
  bad_annotations: str = "error"

  def __post_init__(self):
    annotated_images.check_exif("Coco", self.exif)
    annotated_images.check_policy("Coco", self.bad_annotations)

  def open(self) -> CocoRows:
    """ConfigError for an unreadable file, DataError for one that is not in COCO's format."""
    return CocoRows(self)

  def makes(self) -> tuple[str, ...]:
    return annotated_images.names(self.masks)


class CocoRows(files.Rows):
  """The rows of a `Coco`. Picklable; holds the annotations as one JSON text per image."""

  def __init__(self, source: Coco):
    self._spec = source
    self._root = source.images or os.path.dirname(source.path) or "."
    files.is_remote(self._root)  # Rejects an address of another scheme.
    data = files.read_data(source.path, max_bytes=_MAX_BYTES)
    self._crc = zlib.crc32(data)
    content = _parsed(data, source.path)
    self._names = _categories(content, source.path)
    self._images, by_id = _images(content, source.path)
    annotations: list[list[Any]] = [[] for _ in self._images]
    orphans = []
    listed = _list(content, "annotations", source.path)
    for n, annotation in enumerate(listed):
      place = by_id.get(_id(annotation.get("image_id")))
      if place is None:
        orphans.append(n)
        continue
      kept = {k: annotation.get(k) for k in ("bbox", "category_id", "area", "iscrowd")}
      if source.masks:
        kept["segmentation"] = annotation.get("segmentation")
      if source.crowd or not _is_crowd(kept):
        annotations[place].append((n, kept))
    self._check_orphans(orphans, listed)
    self._annotations = [json.dumps(found).encode() for found in annotations]

  def _check_orphans(self, orphans: list[int], listed: list[dict[str, Any]]) -> None:
    if not orphans:
      return
    path, first = self._spec.path, orphans[0]
    what = f"annotations[{first}] is of image_id {listed[first].get('image_id')!r}"
    annotated_images.check_found(
      len(listed) - len(orphans),
      len(listed),
      f"annotations of {path} are of images in it ({what})",
      [f"{path}: images[…].id"],
      "Do images and annotations belong to one another?",
    )
    logging.warning(
      "%s: %d of %d annotations are left out: they are of images that are not in the file (%s)",
      path,
      len(orphans),
      len(listed),
      what,
    )

  def __len__(self) -> int:
    return len(self._images)

  def _row(self, i: int) -> dict[str, Any]:
    (image_id, name, *size), s = self._images[i], self._spec
    data = files.read_under(self._root, name)
    image = annotated_images.read_image(
      data, exif=s.exif, annotated=size, what="the annotation file"
    )
    annotations = json.loads(self._annotations[i])
    boxes = filter(None, (_written(a) for _, a in annotations))
    annotated_images.check_unit(boxes, image.size, "COCO has pixels")
    budget = rle.Budget()
    things = [functools.partial(self._thing, n, a, image.size, budget) for n, a in annotations]
    return annotated_images.row(image, name, image_id, things, s, self.where(i))

  def where(self, i: int) -> str:
    image_id, name, *_ = self._images[i]
    return f"{self._spec.path}: image {image_id} ({name!r})"

  def fingerprint(self) -> str:
    """Of the annotation file's content and of the parts that are read."""
    return f"coco:{self._spec.masks:d}{self._spec.crowd:d}:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the image's name and size and of its annotations."""
    return files.row_digests(
      json.dumps([image[1:], [kept for _, kept in json.loads(things)]]).encode()
      for image, things in zip(self._images, self._annotations, strict=True)
    )

  def _thing(
    self, n: int, annotation: Mapping[str, Any], size: tuple[int, int], budget: rle.Budget
  ) -> annotated_images.Thing:
    where = f"annotations[{n}]"
    area = annotation["area"]
    x, y, width, height = (
      annotated_images.number(v, f"{where}: bbox") for v in _box(annotation["bbox"], where)
    )
    category = _id(annotation["category_id"])
    if category is None or category not in self._names:
      raise errors.DataError(
        f"{where}: category_id {annotation['category_id']!r} is no category's id."
      )
    mask = None
    if annotation.get("segmentation"):
      outline = _outline(annotation["segmentation"], where)
      mask = functools.partial(rle.decode, outline, *size, budget)
    return annotated_images.Thing(
      self._names[category],
      (x, y, x + width, y + height),
      0.0 if area is None else annotated_images.number(area, f"{where}: area"),
      strict_json.yes_no(annotation["iscrowd"], f"{where}: iscrowd"),
      mask,
    )


def _id(value: Any) -> int | str | None:
  """An id, for which 7, 7.0 and "7" are the same; None for anything else."""
  if isinstance(value, str):
    is_number = value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS
    return int(value) if is_number and str(int(value)) == value else value
  if isinstance(value, float) and value.is_integer():
    return int(value)
  return value if type(value) is int else None


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
  """Whether `iscrowd` is true; a wrong value is an error when the row is read."""
  try:
    return strict_json.yes_no(annotation["iscrowd"], "")
  except errors.DataError:
    return False


def _box(value: Any, where: str) -> list[Any]:
  value = _listed(value, f"{where}: bbox")
  if not isinstance(value, list) or len(value) != 4:
    raise errors.DataError(f"{where}: bbox is {str(value)[:60]!r}; expected [x, y, width, height].")
  return value


def _written(annotation: Mapping[str, Any]) -> tuple[float, ...] | None:
  """The numbers of a box; None of a wrong one, which is an error when its object is made."""
  try:
    return tuple(annotated_images.number(v, "") for v in _box(annotation["bbox"], ""))
  except errors.DataError:
    return None


def _outline(value: Any, where: str) -> Any:
  """A segmentation as `regions.rle` reads it, also of run lengths in a list of one."""
  value = _listed(value, f"{where}: segmentation")
  if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
    if len(value) > 1:
      raise errors.DataError(f"{where}: segmentation is a list of {len(value)} run lengths.")
    return value[0]
  if isinstance(value, list) and value and all(type(v) in (int, float) for v in value):
    return [value]  # One polygon that is no list of polygons.
  return value


def _listed(value: Any, what: str) -> Any:
  """The value; a JSON text of a list or an object is parsed."""
  if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
    try:
      return strict_json.parse(value)
    except strict_json.Malformed as e:
      raise errors.DataError(f"{what} is a text, not a list: {e}.") from None
  return value


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
    key, name = _id(category.get("id")), category.get("name")
    if key is None or not isinstance(name, str) or key in names:
      raise errors.DataError(
        f"{path}: categories[{n}] has id {category.get('id')!r} and name {name!r}; expected an id"
        " of its own and a text."
      )
    try:
      strict_json.check_text(name)
    except strict_json.Malformed as e:
      raise errors.DataError(f"{path}: the name of categories[{n}] is a {e}.") from None
    names[key] = name
  return names


def _images(content: Mapping[str, Any], path: str) -> tuple[list[tuple], dict[Any, int]]:
  """(id, file name, height, width) of each image, and {id: place in that list}."""
  images: list[tuple] = []
  by_id: dict[Any, int] = {}
  for n, image in enumerate(_list(content, "images", path)):
    key, name = _id(image.get("id")), image.get("file_name")
    if name is None and isinstance(image.get("coco_url"), str):
      name = image["coco_url"].rpartition("/")[2]
    if key is None or not isinstance(name, str) or key in by_id:
      raise errors.DataError(
        f"{path}: images[{n}] has id {image.get('id')!r} and file_name {name!r}; expected an id"
        " of its own and a text (or a coco_url, as LVIS has it)."
      )
    by_id[key] = len(images)
    images.append((image["id"], name, image.get("height"), image.get("width")))
  return images, by_id
