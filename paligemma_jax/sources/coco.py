"""Detection and segmentation in COCO's format: one JSON file and a folder of images."""

from __future__ import annotations

import array
import functools
import json
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
class Coco(annotated_images.Source):
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
    exif, bad_annotations: see `sources.annotated_images`; "auto" goes by the images' width and
      height in the file.
  """

  path: str
  images: str = ""
  masks: bool = False
  crowd: bool = True
  exif: bool | str = "auto"
  bad_annotations: str = "error"

  def open(self) -> CocoRows:
    """ConfigError for an unreadable file, DataError for one that is not in COCO's format."""
    return CocoRows(self)


class CocoRows(files.Rows):
  """The rows of a `Coco`. Picklable; holds the annotations as one JSON text per image."""

  def __init__(self, source: Coco):
    self._spec, path = source, source.path
    self._root = files.folder(source.images, path)
    data = files.read_data(path, max_bytes=_MAX_BYTES)
    self._crc = zlib.crc32(data)
    try:
      content = strict_json.parse_large(data)
    except strict_json.Malformed as e:
      raise errors.DataError(f"{path} is no JSON: {e}.") from None
    if not isinstance(content, dict):
      raise errors.DataError(f"{path}: expected an object with images, annotations and categories.")
    categories = _by_id(content, "categories", "name", path)
    self._classes = {key: name for key, (name, _) in categories.items()}
    annotated_images.check_classes(self._classes.values(), path)
    images = _by_id(content, "images", "file_name", path)
    self._images = [
      (entry["id"], name, entry.get("height"), entry.get("width"))
      for name, entry in images.values()
    ]
    of_images: dict[Any, list[Any]] = {key: [] for key in images}
    orphans = []
    listed = _list(content, "annotations", path)
    for n, annotation in enumerate(listed):
      found = of_images.get(_id(annotation.get("image_id")))
      if found is None:
        orphans.append(n)
        continue
      kept = {k: annotation.get(k) for k in ("bbox", "category_id", "area", "iscrowd")}
      if source.masks:
        kept["segmentation"] = annotation.get("segmentation")
      if source.crowd or not _is_crowd(kept):
        found.append((n, kept))
    if orphans:
      self._check_orphans(orphans, listed)
    self._annotations = [json.dumps(found).encode() for found in of_images.values()]

  def _check_orphans(self, orphans: list[int], listed: list[dict[str, Any]]) -> None:
    path, first, num = self._spec.path, orphans[0], len(listed)
    what = f"annotations[{first}] is of image_id {listed[first].get('image_id')!r}"
    annotated_images.check_found(
      num - len(orphans),
      num,
      f"annotations of {path} are of images in it ({what})",
      [f"{path}: images[…].id"],
      "Do images and annotations belong to one another?",
    )
    logging.warning(
      "%s: %d of %d annotations are left out: they are of images that are not in the file (%s)",
      *(path, len(orphans), num, what),
    )

  def __len__(self) -> int:
    return len(self._images)

  def _row(self, i: int) -> dict[str, Any]:
    image_id, name, *size = self._images[i]
    data = files.read_under(self._root, name)
    things = [(f"annotations[{n}]", a) for n, a in json.loads(self._annotations[i])]
    make = functools.partial(self._thing, rle.Budget())
    return annotated_images.row(
      data, name, image_id, things, make, self._spec, self.where(i),
      annotated=size, what="the annotation file",
    )  # fmt: skip

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
    self, budget: rle.Budget, annotation: Mapping[str, Any], size: annotated_images.Size
  ) -> annotated_images.Thing:
    area, box = annotation["area"], _listed(annotation["bbox"], "bbox")
    if not isinstance(box, list) or len(box) != 4:
      raise errors.DataError(f"bbox is {str(box)[:60]!r}; expected [x, y, width, height].")
    x, y, width, height = (annotated_images.number(v, "bbox") for v in box)
    category = _id(annotation["category_id"])
    if category is None or category not in self._classes:
      raise errors.DataError(f"category_id {annotation['category_id']!r} is no category's id.")
    mask = None
    if annotation.get("segmentation"):
      outline = _outline(annotation["segmentation"])
      mask = functools.partial(rle.decode, outline, *size, budget)
    return annotated_images.Thing(
      self._classes[category],
      (x, y, x + width, y + height),
      0.0 if area is None else annotated_images.number(area, "area"),
      strict_json.yes_no(annotation["iscrowd"], "iscrowd"),
      mask,
      written=(x, y, width, height),
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


def _outline(value: Any) -> Any:
  """A segmentation as `regions.rle` reads it, also of run lengths in a list of one."""
  value = _listed(value, "segmentation")
  if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
    if len(value) > 1:
      raise errors.DataError(f"segmentation is a list of {len(value)} run lengths.")
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


def _by_id(
  content: Mapping[str, Any], key: str, field: str, path: str
) -> dict[Any, tuple[str, dict[str, Any]]]:
  """{id: (name, entry)} of a list whose entries have an id of their own and a name in `field`."""
  found: dict[Any, tuple[str, dict[str, Any]]] = {}
  for n, entry in enumerate(_list(content, key, path)):
    own, name = _id(entry.get("id")), entry.get(field)
    if name is None and isinstance(entry.get("coco_url"), str):
      name = entry["coco_url"].rpartition("/")[2]
    if own is None or not isinstance(name, str) or own in found:
      raise errors.DataError(
        f"{path}: {key}[{n}] has id {entry.get('id')!r} and {field} {name!r}; expected an id of its"
        " own and a text (of an image a coco_url will do, as LVIS has it)."
      )
    found[own] = name, entry
  return found
