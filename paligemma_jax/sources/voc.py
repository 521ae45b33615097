"""Folders as Pascal VOC has them: an XML file of boxes for each image, lists of splits, masks."""

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
_MAX_LIST_BYTES = 64 << 20
_MAX_DEPTH = 16
_MASKS = "SegmentationObject"
_BOM = b"\xef\xbb\xbf"
_BORDER = 255  # Of masks: pixels that belong to nobody.


@spec_lib.spec
class Voc:
  """One row for each image of a split.

  Columns: see `sources.annotated_images`; `crowd` is true of objects marked as difficult, which VOC
  leaves out of its scores.

  Attributes:
    path: the folder with Annotations, JPEGImages and ImageSets, as VOCdevkit/VOC2012.
    split: the name of a list in ImageSets, as "Main/train" or "Segmentation/val"; without a folder
      it is one of Main. '' takes every file of Annotations and of the folders in it.
    annotations, images: names of those folders. An image is the file that <filename> names, or the
      one of the XML file's name with any ending.
    first_pixel: 1 where pixels are counted from 1 and the last one is inside the box (VOC itself),
      0 for coordinates of edges, counted from 0.
    masks: True adds the masks, out of SegmentationObject.
    exif: the annotations are of the images that EXIF sets upright (True), of the stored ones
      (False), or of those that <size> fits ("auto"; upright where both fit). It counts for
      `pp.Decode`, too.
    bad_annotations: "error": an object that is wrong rejects its row; "skip": it is left out,
      counted and named in the log.
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
    """Reads the split's list.

    Raises:
      ConfigError: there is no such folder or list.
      DataError: fewer than half of the names of the list have an annotation file.
    """
    return VocRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns of every row."""
    return annotated_images.names(self.masks)


class VocRows:
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
    # Of the XML files, and the names that they give the rows.
    self._xmls = [path for path, _ in paths]
    self._names = [os.path.splitext(_rest(source.annotations, p))[0] for p in self._xmls]
    self._crc = zlib.crc32("\n".join(self._names).encode("utf-8", "surrogatepass"))

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    name, s = self._names[i], self._spec
    try:
      tree = parse(files.read_under(s.path, self._xmls[i], max_bytes=_MAX_XML_BYTES))
      image = self._image(name, tree)
      data = files.read_under(s.path, f"{s.images}/{image}")
      size = _child(tree, "size")
      said = [_text(size, side) if size else "" for side in ("height", "width")]
      picture = annotated_images.picture(data, exif=s.exif, said=tuple(said), what="<size>")
      objects = [child for child in tree.children if child.name == "object"]
      annotated_images.check_unit(
        filter(None, map(_written, objects)), picture.size, "VOC has pixels"
      )
      numbers = self._numbers(name) if s.masks else None
      make = [functools.partial(self._thing, n, o, numbers) for n, o in enumerate(objects, 1)]
      things = annotated_images.Things(make, s.bad_annotations, self.where(i))
      return annotated_images.row(picture, image, name, things, masks=s.masks)
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: {e}") from None

  def where(self, i: int) -> str:
    """The file with a row's annotations."""
    return os.path.join(self._spec.path, self._xmls[i])

  def fingerprint(self) -> str:
    """Of the split's list; the files of the rows are not read for it."""
    return f"voc:{self._spec.masks:d}{self._spec.first_pixel}:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the names of the images alone."""
    return files.row_digests(name.encode("utf-8", "surrogatepass") for name in self._names)

  def _image(self, name: str, tree: Node) -> str:
    """The image's path below the folder of images.

    Many tools write a path of their own machine in <filename>, or none; the XML file's name is then
    what counts.
    """
    s, said = self._spec, _text(tree, "filename").replace("\\", "/").rpartition("/")[2]
    above = name.rpartition("/")[0]
    tries = [f"{above}/{said}" if above else said, said] if said else []
    for path in tries:
      if path not in ("", ".", "..") and (found := files.find_under(s.path, f"{s.images}/{path}")):
        return _rest(s.images, found)
    stems = [name, name.rpartition("/")[2], os.path.splitext(said)[0]]
    for stem in filter(None, stems):
      beside = files.by_stem(s.path, f"{s.images}/{stem}", image_files.ENDINGS)
      if len(beside) > 1:
        raise errors.DataError(
          f"which image is meant, {' or '.join(map(repr, beside))}? <filename> is {said!r}."
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
      _number(box, key, where) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    first = self._spec.first_pixel
    difficult = strict_json.yes_no(_text(node, "difficult"), f"{where}: difficult")
    mask = None if numbers is None else functools.partial(np.equal, numbers, n)
    return annotated_images.Thing(
      label.strip(), (x_min - first, y_min - first, x_max, y_max), crowd=difficult, mask=mask
    )

  def _numbers(self, name: str) -> np.ndarray:
    """uint8[H, W]: at each pixel the number of its object, from 1 on."""
    path = f"{_MASKS}/{name}.png"
    try:
      numbers = rle.png_pixels(files.read_under(self._spec.path, path))
    except errors.DataError as e:
      raise errors.DataError(f"{path}: {e}") from None
    if numbers.ndim != 2 or numbers.dtype != np.uint8:
      raise errors.DataError(f"{path}: expected a PNG with a palette, a number at each pixel.")
    return np.where(numbers == _BORDER, 0, numbers)


class Node:
  """An element: its name, its text, its children and the line it begins at."""

  __slots__ = ("children", "line", "name", "pieces")

  def __init__(self, name: str, line: int):
    self.name, self.line = name, line
    self.pieces: list[str] = []
    self.children: list[Node] = []

  @property
  def text(self) -> str:
    """What stands in it and not in its children."""
    return "".join(self.pieces)


def parse(data: bytes) -> Node:
  """The tree of an XML document. One with a document type is refused: entities are declared there,
  which can stand for gigabytes or for other files. The time it takes grows with the document.

  Raises:
    DataError: no XML, a document type, too deep a nest or too many elements; says at which line.
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
  """(path of an XML file, whether it is there) for the names of a split's list.

  A number behind a name (1, 0 or -1 for a class) must not be -1; a name may hold blanks.
  """
  split = source.split if "/" in source.split else f"Main/{source.split}"
  path = f"ImageSets/{split}.txt"
  data = files.read_under(source.path, path, max_bytes=_MAX_LIST_BYTES).removeprefix(_BOM)
  for line in data.split(b"\n"):
    # Names of files need not be UTF-8.
    name = line.decode("utf-8", "surrogateescape").strip().replace("\\", "/")
    if not name:
      continue
    words = name.rsplit(None, 1)
    found = _xml(source, name) if len(words) > 1 else None
    if found is None and len(words) > 1 and words[1] in ("1", "0", "-1"):
      if words[1] == "-1":
        continue
      name = words[0].strip()
    found = found or _xml(source, name)
    yield found or f"{source.annotations}/{name}.xml", found is not None


def _xml(source: Voc, name: str) -> str | None:
  """The annotation file of a name of a list, which some tools write with the image's ending."""
  stem, ending = os.path.splitext(name)
  names = [name, *([stem] if ending.lower() in image_files.ENDINGS else [])]
  paths = (f"{source.annotations}/{name}.xml" for name in names)
  found = next(filter(None, (files.find_under(source.path, path) for path in paths)), None)
  return found and f"{source.annotations}/{_rest(source.annotations, found)}"


def _rest(folder: str, path: str) -> str:
  """A path in a folder without the folder, whose letters may be of another case in it."""
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
  """The numbers of an object's box; None where they are no box, which is told of elsewhere."""
  box = _child(node, "bndbox")
  try:
    return box and tuple(float(_text(box, key)) for key in ("xmin", "ymin", "xmax", "ymax"))
  except ValueError:
    return None


def _child(node: Node, name: str) -> Node | None:
  return next((child for child in node.children if child.name == name), None)


def _text(node: Node, name: str) -> str:
  child = _child(node, name)
  return child.text.strip() if child else ""


def _number(node: Node, name: str, where: str) -> float:
  return annotated_images.number(_text(node, name), f"{where}: {name}")
