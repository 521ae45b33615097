"""Folders in Pascal VOC's layout: an XML file of boxes per image, lists of splits, masks."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
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
class Voc(annotated_images.Source):
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
    exif, bad_annotations: see `sources.annotated_images`; "auto" goes by the <size>.
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
    super().__post_init__()
    if self.first_pixel not in (0, 1):
      raise errors.ConfigError(f"Voc.first_pixel is {self.first_pixel!r}; expected 0 or 1.")

  def open(self) -> VocRows:
    """ConfigError without the folder or list, DataError where most annotations are missing."""
    return VocRows(self)


class VocRows(annotated_images.Rows):
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

  def _row(self, i: int) -> dict[str, Any]:
    name, s = self._names[i], self._spec
    tree = _parsed(files.read_under(s.path, self._xmls[i], max_bytes=_MAX_XML_BYTES))
    path = self._image_path(name, tree)
    data = files.read_under(s.path, f"{s.images}/{path}")
    objects = enumerate(tree.findall("object"), 1)
    things = [(f"line {node.get('line')}: object {n}", (n, node)) for n, node in objects]
    make = functools.partial(self._thing, self._numbers(name) if s.masks else None)
    return annotated_images.row(
      data, path, name, things, make, s, self.where(i),
      annotated=[_text(tree, "size/height"), _text(tree, "size/width")], what="<size>",
    )  # fmt: skip

  def where(self, i: int) -> str:
    return os.path.join(self._spec.path, self._xmls[i])

  def fingerprint(self) -> str:
    """Of the split's list, not of the rows' files."""
    return f"voc:{self._spec.masks:d}{self._spec.first_pixel}:{len(self)} rows:{self._crc:08x}"

  def _image_path(self, name: str, tree: ElementTree.Element) -> str:
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

  def _thing(
    self, numbers: np.ndarray | None, written: tuple[int, ElementTree.Element], _: Any
  ) -> annotated_images.Thing:
    n, node = written
    label, box = _text(node, "name"), node.find("bndbox")
    if not label or box is None:
      raise errors.DataError(f"it has no {'bndbox' if label else 'name'}.")
    x_min, y_min, x_max, y_max = (
      annotated_images.number(_text(box, side), side) for side in _SIDES
    )
    first = self._spec.first_pixel
    return annotated_images.Thing(
      label,
      (x_min - first, y_min - first, x_max, y_max),
      crowd=strict_json.yes_no(_text(node, "difficult"), "difficult"),
      mask=None if numbers is None else functools.partial(np.equal, numbers, n),
      written=(x_min, y_min, x_max, y_max),
    )

  def _numbers(self, name: str) -> np.ndarray:
    """uint8[H, W]: the number of each pixel's object, from 1; 0 is none."""
    path = f"{_MASKS}/{name}.png"
    with errors.within(path):
      numbers = rle.png_pixels(files.read_under(self._spec.path, path))
    if numbers.ndim != 2 or numbers.dtype != np.uint8:
      raise errors.DataError(f"{path}: expected a PNG with a palette, a number at each pixel.")
    return np.where(numbers == _BORDER, 0, numbers)


def _parsed(data: bytes) -> ElementTree.Element:
  """The root of an XML document; each element has its first line as the attribute "line".

  DataError, with the line, of no XML, too deep a nest, too many elements, or a document type, which
  can declare entities that expand to gigabytes or to other files.
  """
  parser = expat.ParserCreate()
  parser.buffer_text = True
  builder = ElementTree.TreeBuilder()
  depth = number = 0

  def refuse(*_: Any) -> None:
    raise errors.DataError(
      f"line {parser.CurrentLineNumber}: a document type (DOCTYPE); annotations need none."
    )

  def start(name: str, _: Any) -> None:
    nonlocal depth, number
    depth, number = depth + 1, number + 1
    line = parser.CurrentLineNumber
    if depth >= _MAX_DEPTH:
      raise errors.DataError(f"line {line}: elements nested deeper than {_MAX_DEPTH}.")
    if number > _MAX_ELEMENTS:
      raise errors.DataError(f"line {line}: more than {_MAX_ELEMENTS} elements.")
    builder.start(name, {"line": str(line)})

  def end(name: str) -> None:
    nonlocal depth
    depth -= 1
    builder.end(name)

  parser.StartDoctypeDeclHandler = refuse
  parser.StartElementHandler = start
  parser.EndElementHandler = end
  parser.CharacterDataHandler = builder.data
  try:
    parser.Parse(data, True)
  except expat.ExpatError as e:
    raise errors.DataError(f"line {e.lineno}: no XML: {expat.ErrorString(e.code)}.") from None
  except (ValueError, LookupError) as e:  # An unknown encoding.
    raise errors.DataError(f"no XML: {e}.") from None
  return builder.close()


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
  names = [name for name in inside[1] if name.lower().endswith(".xml")] if inside else []
  if not names:
    raise errors.DataError(f"there is no folder {source.annotations!r} with XML files.")
  return ((f"{source.annotations}/{name}", True) for name in names)


def _text(node: ElementTree.Element, path: str) -> str:
  """The text of the first element there; '' without one."""
  return (node.findtext(path) or "").strip()
