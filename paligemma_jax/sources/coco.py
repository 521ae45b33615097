"""Detection and segmentation in COCO's format: one JSON file, and a folder of images."""

from __future__ import annotations

import array
import functools
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from paligemma_jax.core import atomic_io
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

  Columns: see `sources.annotated_images`. Bounding boxes are read as COCO has them (x, y, width,
  height in pixels), masks from polygons and both kinds of run lengths. An image without annotations
  has empty lists.

  Images that have no `file_name` but a `coco_url` (LVIS) are read by the end of that. Annotations
  of images that are not in the file are left out, with a warning.

  Attributes:
    path: the file, as instances_train2017.json.
    images: the folder of the images' `file_name`s; '' is that of `path`.
    masks: True adds the masks.
    crowd: False leaves crowds out: they are regions, no objects to learn.
    exif: the annotations are of the images that EXIF sets upright (True), of the stored ones
      (False), or of those that the file's width and height fit ("auto"; upright where both fit). It
      counts for `pp.Decode`, too.
    bad_annotations: "error": an annotation that is wrong rejects its row; "skip": it is left out,
      counted and named in the log.
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
    """Reads the file.

    Raises:
      ConfigError: the file cannot be read.
      DataError: it is not of COCO's format, or fewer than half of its annotations are of images in
        it; says where.
    """
    return CocoRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns of every row."""
    return annotated_images.names(self.masks)


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

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    (image_id, name, *said), s = self._images[i], self._spec
    try:
      data = files.read_under(self._root, name)
      picture = annotated_images.picture(
        data, exif=s.exif, said=tuple(said), what="the annotation file"
      )
      annotations = json.loads(self._annotations[i])
      annotated_images.check_unit(
        filter(None, (_written(a) for _, a in annotations)), picture.size, "COCO has pixels"
      )
      budget = rle.Budget()
      make = [functools.partial(self._thing, n, a, picture.size, budget) for n, a in annotations]
      things = annotated_images.Things(make, s.bad_annotations, self.where(i))
      return annotated_images.row(picture, name, image_id, things, masks=s.masks)
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
  """An id so that 7, 7.0 and "7" are the same; None for what is none."""
  if isinstance(value, str):
    is_number = value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS
    return int(value) if is_number and str(int(value)) == value else value
  if isinstance(value, float) and value.is_integer():
    return int(value)
  return value if type(value) is int else None


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
  """Whether it is one; what is neither is told of when the row is read."""
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
  """The numbers of a box; None where they are none, which is told of elsewhere."""
  try:
    return tuple(annotated_images.number(v, "") for v in _box(annotation["bbox"], ""))
  except errors.DataError:
    return None


def _outline(value: Any, where: str) -> Any:
  """A segmentation as `regions.rle` reads it; some write run lengths as a list of one."""
  value = _listed(value, f"{where}: segmentation")
  if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
    if len(value) > 1:
      raise errors.DataError(f"{where}: segmentation is a list of {len(value)} run lengths.")
    return value[0]
  if isinstance(value, list) and value and all(type(v) in (int, float) for v in value):
    return [value]  # One polygon that is no list of polygons.
  return value


def _listed(value: Any, what: str) -> Any:
  """A list, or a list or an object that is written as a text."""
  if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
    try:
      return strict_json.parse(value)
    except strict_json.Malformed as e:
      raise errors.DataError(f"{what} is a text that is no list: {e}.") from None
  return value


def _read(path: str) -> bytes:
  try:
    if not files.is_remote(path):
      return atomic_io.read(path, max_bytes=_MAX_BYTES)
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
  images, by_id = [], {}
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
