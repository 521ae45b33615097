"""Folders in Pascal VOC's layout: an XML file of boxes per image, lists of splits, masks."""

from __future__ import annotations

import array
import functools
import os
import zlib
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.regions import rle
from paligemma_jax.sources import annotated_images
from paligemma_jax.sources import files

_MAX_XML_BYTES = 4 << 20
_MAX_ELEMENTS = 100_000
_MAX_DEPTH = 16
_MASKS = "SegmentationObject"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_BORDER = 255  # In masks: pixels of no object.


@spec_lib.spec
class Voc:
  """One row for each image of a split.

  Columns: see `sources.annotated_images`; `crowd` marks the objects that are difficult, which VOC
  does not score.

  Attributes:
    path: the folder with Annotations, JPEGImages and ImageSets, as VOCdevkit/VOC2012.
    split: the name of a list in ImageSets, as "Main/train" or "Segmentation/val"; Main is the
      default folder. '' takes every file below Annotations.
    annotations, images: the names of those folders. An image is the file in <filename>, or the one
      named like the XML file with any ending.
    first_pixel: 1 where pixels are counted from 1 and a box includes its last one (VOC itself), 0
      for coordinates of edges, counted from 0.
    masks: True adds the masks from SegmentationObject.
    exif: the annotations are of the upright images (True), of the stored ones (False), or of those
      that have the <size> ("auto"); see `sources.annotated_images`.
    bad_annotations: "error" rejects the row of a wrong object; "skip" leaves the object out,
      counted and logged.
  """

  path: str
  split: str = "train"
  annotations: str = "Annotations"
  images: str = "JPEGImages"
  first_pixel: int = 1
  masks: bool = False
  exif: bool | str = "auto"
  bad_annotations: str = "error"

  def __post_init__(self):
    annotated_images.check_exif("Voc", self.exif)
    annotated_images.check_policy("Voc", self.bad_annotations)
    if self.first_pixel not in (0, 1):
      raise errors.ConfigError(f"Voc.first_pixel is {self.first_pixel!r}; expected 0 or 1.")

  def open(self) -> VocRows:
    """ConfigError without the folder or list, DataError where most annotations are missing."""
    return VocRows(self)

  def makes(self) -> tuple[str, ...]:
    return annotated_images.names(self.masks)


class VocRows(files.Rows):
  """The rows of a `Voc`. Picklable; holds the names of the images."""

  def __init__(self, source: Voc):
    self._spec = source
    try:
      paths = list(_listed(source) if source.split else _all(source))
    except errors.DataError as e:
      raise errors.ConfigError(f"Voc({source.path!r}): {e}") from None
    annotated_images.check_found(
      sum(found for _, found in paths),
      len(paths),
      f"names of Voc({source.path!r}, {source.split!r}) have an annotation file",
      [path for path, found in paths if not found],
      "Name the folder with Voc.annotations.",
    )
    self._xmls = [path for path, _ in paths]
    self._names = [os.path.splitext(_rest(source.annotations, p))[0] for p in self._xmls]
    self._crc = zlib.crc32("\n".join(self._names).encode("utf-8", "surrogatepass"))

  def __len__(self) -> int:
    return len(self._names)

  def _row(self, i: int) -> dict[str, Any]:
    name, s = self._names[i], self._spec
    tree = parse(files.read_under(s.path, self._xmls[i], max_bytes=_MAX_XML_BYTES))
    path = self._image_path(name, tree)
    data = files.read_under(s.path, f"{s.images}/{path}")
    size = _child(tree, "size")
    sides = [_text(size, side) if size else "" for side in ("height", "width")]
    image = annotated_images.read_image(data, exif=s.exif, annotated=sides, what="<size>")
    objects = [child for child in tree.children if child.name == "object"]
    boxes = filter(None, map(_written, objects))
    annotated_images.check_unit(boxes, image.size, "VOC has pixels")
    numbers = self._numbers(name) if s.masks else None
    things = [functools.partial(self._thing, n, o, numbers) for n, o in enumerate(objects, 1)]
    return annotated_images.row(image, path, name, things, s, self.where(i))

  def where(self, i: int) -> str:
    return os.path.join(self._spec.path, self._xmls[i])

  def fingerprint(self) -> str:
    """Of the split's list, not of the rows' files."""
    return f"voc:{self._spec.masks:d}{self._spec.first_pixel}:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the images' names."""
    return files.row_digests(name.encode("utf-8", "surrogatepass") for name in self._names)

  def _image_path(self, name: str, tree: Node) -> str:
    """The image's path below the folder of images.

    Many tools write a path of their own machine in <filename>, or none; the XML file's name then
    names the image.
    """
    s, filename = self._spec, _text(tree, "filename").replace("\\", "/").rpartition("/")[2]
    above = name.rpartition("/")[0]
    tries = [f"{above}/{filename}" if above else filename, filename] if filename else []
    for path in tries:
      if path not in ("", ".", "..") and (found := files.find_under(s.path, f"{s.images}/{path}")):
        return _rest(s.images, found)
    stems = [name, name.rpartition("/")[2], os.path.splitext(filename)[0]]
    for stem in filter(None, stems):
      beside = files.by_stem(s.path, f"{s.images}/{stem}", image_files.ENDINGS)
      if len(beside) > 1:
        raise errors.DataError(
          f"which image is meant, {' or '.join(map(repr, beside))}? <filename> is {filename!r}."
        )
      if beside:
        return _rest(s.images, beside[0])
    looked = ", ".join(map(repr, dict.fromkeys([*tries, f"{name}.jpg"])))
    raise errors.DataError(
      f"there is no image {looked} in {s.images!r}, nor {name!r} with another ending."
    )

  def _thing(self, n: int, node: Node, numbers: np.ndarray | None) -> annotated_images.Thing:
    where = f"line {node.line}: object {n}"
    label, box = _text(node, "name"), _child(node, "bndbox")
    if not label or box is None:
      raise errors.DataError(f"{where} has no {'bndbox' if label else 'name'}.")
    x_min, y_min, x_max, y_max = (
      annotated_images.number(_text(box, side), f"{where}: {side}") for side in _SIDES
    )
    first = self._spec.first_pixel
    difficult = strict_json.yes_no(_text(node, "difficult"), f"{where}: difficult")
    mask = None if numbers is None else functools.partial(np.equal, numbers, n)
    return annotated_images.Thing(
      label.strip(), (x_min - first, y_min - first, x_max, y_max), crowd=difficult, mask=mask
    )

  def _numbers(self, name: str) -> np.ndarray:
    """uint8[H, W]: the number of each pixel's object, from 1; 0 is none."""
    path = f"{_MASKS}/{name}.png"
    try:
      numbers = rle.png_pixels(files.read_under(self._spec.path, path))
    except errors.DataError as e:
      raise errors.DataError(f"{path}: {e}") from None
    if numbers.ndim != 2 or numbers.dtype != np.uint8:
      raise errors.DataError(f"{path}: expected a PNG with a palette, a number at each pixel.")
    return np.where(numbers == _BORDER, 0, numbers)


class Node:
  """An element: its name, its text, its children and its first line."""

  __slots__ = ("children", "line", "name", "pieces")

  def __init__(self, name: str, line: int):
    self.name, self.line = name, line
    self.pieces: list[str] = []
    self.children: list[Node] = []

  @property
  def text(self) -> str:
    """Its own text, without that of its children."""
    return "".join(self.pieces)


def parse(data: bytes) -> Node:
  """The root of an XML document, parsed in linear time.

  A document type is refused: it can declare entities that expand to gigabytes or to other files.

  Raises:
    DataError: no XML, a document type, too deep a nest or too many elements; names the line.
  """
  parser = expat.ParserCreate()
  parser.buffer_text = True
  number = 0
  top = Node("", 0)
  stack = [top]

  def refuse(*_: Any) -> None:
    raise errors.DataError(
      f"line {parser.CurrentLineNumber}: a document type (DOCTYPE); annotations need none."
    )

  def start(name: str, _: Any) -> None:
    nonlocal number
    number += 1
    node = Node(name, parser.CurrentLineNumber)
    stack[-1].children.append(node)
    stack.append(node)
    if len(stack) > _MAX_DEPTH:
      raise errors.DataError(f"line {node.line}: elements nested deeper than {_MAX_DEPTH}.")
    if number > _MAX_ELEMENTS:
      raise errors.DataError(f"line {node.line}: more than {_MAX_ELEMENTS} elements.")

  def end(_: str) -> None:
    stack.pop()

  def text(data: str) -> None:
    stack[-1].pieces.append(data)

  parser.StartDoctypeDeclHandler = refuse
  parser.StartElementHandler = start
  parser.EndElementHandler = end
  parser.CharacterDataHandler = text
  try:
    parser.Parse(data, True)
  except expat.ExpatError as e:
    raise errors.DataError(f"line {e.lineno}: no XML: {expat.ErrorString(e.code)}.") from None
  except (ValueError, LookupError) as e:  # An unknown encoding.
    raise errors.DataError(f"no XML: {e}.") from None
  return top.children[0]


def _listed(source: Voc) -> Iterator[tuple[str, bool]]:
  """(path of an XML file, whether it exists) for the names of a split's list.

  A name may hold blanks. After it may stand a class's flag, 1, 0 or -1; those with -1 are left out.
  """
  split = source.split if "/" in source.split else f"Main/{source.split}"
  for name in files.listed_under(source.path, f"ImageSets/{split}.txt"):
    words = name.rsplit(None, 1)
    found = _xml(source, name) if len(words) > 1 else None
    if found is None and len(words) > 1 and words[1] in ("1", "0", "-1"):
      if words[1] == "-1":
        continue
      name = words[0].strip()
    found = found or _xml(source, name)
    yield found or f"{source.annotations}/{name}.xml", found is not None


def _xml(source: Voc, name: str) -> str | None:
  """The annotation file of a name in a list, which may have the image's ending."""
  stem, ending = os.path.splitext(name)
  names = [name, *([stem] if ending.lower() in image_files.ENDINGS else [])]
  paths = (f"{source.annotations}/{name}.xml" for name in names)
  found = next(filter(None, (files.find_under(source.path, path) for path in paths)), None)
  return found and f"{source.annotations}/{_rest(source.annotations, found)}"


def _rest(folder: str, path: str) -> str:
  """The path below `folder`, whose case may differ in `path`."""
  if path.startswith(f"{folder}/"):
    return path.removeprefix(f"{folder}/")
  depth = sum(part not in ("", ".") for part in folder.split("/"))
  return "/".join(path.split("/")[depth:])


def _all(source: Voc) -> Iterator[tuple[str, bool]]:
  inside = files.paths_under(source.path, source.annotations)
  if inside is None:
    raise errors.DataError(f"there is no folder {source.annotations!r}.")
  _, paths = inside
  names = [name for name in paths if name.lower().endswith(".xml")]
  if not names:
    raise errors.DataError(f"the folder {source.annotations!r} holds no XML file.")
  return ((f"{source.annotations}/{name}", True) for name in names)


def _written(node: Node) -> tuple[float, ...] | None:
  """The numbers of an object's box; None of a wrong one, which is an error when it is made."""
  box = _child(node, "bndbox")
  try:
    return tuple(float(_text(box, side)) for side in _SIDES) if box else None
  except ValueError:
    return None


def _child(node: Node, name: str) -> Node | None:
  return next((child for child in node.children if child.name == name), None)


def _text(node: Node, name: str) -> str:
  child = _child(node, name)
  return child.text.strip() if child else ""
