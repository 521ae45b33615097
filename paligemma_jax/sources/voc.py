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
from paligemma_jax.core import png_mask
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import digests
from paligemma_jax.sources import files
from paligemma_jax.sources import pictures

_MAX_XML_BYTES = 4 << 20
_MAX_ELEMENTS = 100_000
_MAX_LIST_BYTES = 64 << 20
_MAX_DEPTH = 16
_BORDER = 255  # Of masks: pixels that belong to nobody.


@spec_lib.spec
class Voc:
  """One row for each image of a split.

  Columns: see `sources.pictures`; `crowd` is true of objects marked as difficult, which VOC leaves
  out of its scores.

  Attributes:
    path: the folder with Annotations, JPEGImages and ImageSets, as VOCdevkit/VOC2012.
    split: the name of a list in ImageSets, as "Main/train" or "Segmentation/val"; without a folder
      it is one of Main. '' takes every file of Annotations.
    annotations, images: names of those folders.
    first_pixel: 1 where pixels are counted from 1 and the last one is inside the box (VOC itself),
      0 for coordinates of edges, counted from 0.
    masks: True adds the masks, out of SegmentationObject.
  """

  path: str
  split: str = "train"
  annotations: str = "Annotations"
  images: str = "JPEGImages"
  first_pixel: int = 1
  masks: bool = False

  def __post_init__(self):
    if self.first_pixel not in (0, 1):
      raise errors.ConfigError(f"Voc.first_pixel is {self.first_pixel!r}; expected 0 or 1.")

  def open(self) -> VocRows:
    """Reads the split's list.

    Raises:
      ConfigError: there is no such folder or list.
    """
    return VocRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns of every row."""
    return pictures.names(self.masks)


class VocRows:
  """The rows of a `Voc`. Picklable; holds the names of the images."""

  def __init__(self, source: Voc):
    self._spec = source
    try:
      self._names = list(_listed(source) if source.split else _all(source))
    except errors.DataError as e:
      raise errors.ConfigError(f"Voc({source.path!r}): {e}") from None
    self._crc = zlib.crc32("\n".join(self._names).encode("utf-8", "surrogatepass"))

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    name, s = self._names[i], self._spec
    try:
      tree = parse(files.read_under(s.path, self._xml(i), max_bytes=_MAX_XML_BYTES))
      # Many tools write a path of their own machine in <filename>; the list's name is what counts.
      image = next(
          (n for n in (_text(tree, "filename"), f"{name}.jpg") if n and self._has(n)), f"{name}.jpg"
      )
      data = files.read_under(s.path, f"{s.images}/{image}")
      size = pictures.size_of(data)
      objects = [child for child in tree.children if child.name == "object"]
      numbers = self._numbers(name) if s.masks else None
      things = [self._thing(n, o, numbers) for n, o in enumerate(objects, 1)]
      return pictures.row(data, image, name, size, things, masks=s.masks)
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: {e}") from None

  def where(self, i: int) -> str:
    """The file with a row's annotations."""
    return os.path.join(self._spec.path, self._xml(i))

  def fingerprint(self) -> str:
    """Of the split's list; the files of the rows are not read for it."""
    return f"voc:{self._spec.masks:d}{self._spec.first_pixel}:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the names of the images alone."""
    return digests.of(name.encode("utf-8", "surrogatepass") for name in self._names)

  def _xml(self, i: int) -> str:
    return f"{self._spec.annotations}/{self._names[i]}.xml"

  def _has(self, image: str) -> bool:
    plain = os.path.basename(image) == image
    return plain and os.path.exists(os.path.join(self._spec.path, self._spec.images, image))

  def _thing(self, n: int, node: Node, numbers: np.ndarray | None) -> pictures.Thing:
    where = f"line {node.line}: object {n}"
    label, box = _text(node, "name"), _child(node, "bndbox")
    if not label or box is None:
      raise errors.DataError(f"{where} has no {'bndbox' if label else 'name'}.")
    x_min, y_min, x_max, y_max = (
        _number(box, key, where) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    first = self._spec.first_pixel
    difficult = (_text(node, "difficult") or "0").strip() not in ("0", "")
    mask = None if numbers is None else functools.partial(np.equal, numbers, n)
    return pictures.Thing(
        label.strip(), (x_min - first, y_min - first, x_max, y_max), crowd=difficult, mask=mask
    )

  def _numbers(self, name: str) -> np.ndarray:
    """uint8[H, W]: at each pixel the number of its object, from 1 on."""
    path = f"SegmentationObject/{name}.png"
    try:
      numbers = png_mask.pixels(files.read_under(self._spec.path, path))
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


def _listed(source: Voc) -> Iterator[str]:
  """The names of a split's list; a number behind a name (1, 0 or -1 for a class) must not be -1."""
  split = source.split if "/" in source.split else f"Main/{source.split}"
  data = files.read_under(source.path, f"ImageSets/{split}.txt", max_bytes=_MAX_LIST_BYTES)
  for n, line in enumerate(data.split(b"\n"), 1):
    words = line.decode("utf-8", "replace").split()
    if len(words) > 2:
      raise errors.DataError(f"ImageSets/{split}.txt:{n}: expected a name, found {line[:60]!r}.")
    if words and words[1:] != ["-1"]:
      yield words[0]


def _all(source: Voc) -> Iterator[str]:
  inside = files.names_under(source.path, source.annotations)
  if inside is None:
    raise errors.DataError(f"there is no folder {source.annotations!r}.")
  return (name.removesuffix(".xml") for name in inside if name.endswith(".xml"))


def _child(node: Node, name: str) -> Node | None:
  return next((child for child in node.children if child.name == name), None)


def _text(node: Node, name: str) -> str:
  child = _child(node, name)
  return child.text.strip() if child else ""


def _number(node: Node, name: str, where: str) -> float:
  text = _text(node, name)
  try:
    return pictures.number(float(text), f"{where}: {name}")
  except ValueError:
    raise errors.DataError(f"{where}: {name} is {text!r}; expected a number.") from None
