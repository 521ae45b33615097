"""YOLO folders: a data.yaml, images, and beside them a text file of labels for each."""

from __future__ import annotations

import array
import os
import zlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import disk
from paligemma_jax.core import errors
from paligemma_jax.core import rle
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import digests
from paligemma_jax.sources import files
from paligemma_jax.sources import pictures

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_MAX_YAML_BYTES = 1 << 19  # 20 000 classes.
_MAX_LABEL_BYTES = 4 << 20
_MAX_LIST_BYTES = 64 << 20
_MAX_DEPTH = 8


@spec_lib.spec
class Yolo:
  """One row for each image of a split, in the order of the names, numbers in them counted.

  Columns: see `sources.pictures`. Labels are read as detection ("class x y width height", centre
  and sides as shares of the picture) or as segmentation ("class x y x y x y …", an outline). An
  image without a label file, or with an empty one, has empty lists.

  Attributes:
    path: the data.yaml: `names` (list, or numbers to texts), and for each split the folder of its
      images, a .txt file that lists them, or several of those. Labels are where the last part
      "images" of an image's path reads "labels".
    split: train, val, test or whatever the file has.
    root: the folder that the file's paths are relative to; '' is the file's own folder, and below
      it the file's `path`, if that is a relative one. Nothing outside is read.
    masks: True adds the masks; every object must then have an outline.
  """

  path: str
  split: str = "train"
  root: str = ""
  masks: bool = False

  def open(self) -> YoloRows:
    """Reads the file and lists the images.

    Raises:
      ConfigError: the file cannot be read, or it has no such split.
      DataError: it is no data.yaml, or names a folder that is not there or lies outside.
    """
    return YoloRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns of every row."""
    return pictures.names(self.masks)


class YoloRows:
  """The rows of a `Yolo`. Picklable; holds the names of the images."""

  def __init__(self, source: Yolo):
    self._spec = source
    data = _read_yaml(source.path)
    content = _yaml(data, source.path)
    self._names = _class_names(content, source.path)
    self._root = _root(source, content)
    splits = {k: v for k, v in content.items() if k not in ("names", "nc", "path")}
    places = errors.pick(splits, source.split, f"split of {source.path}")
    if not places:
      raise errors.ConfigError(f"{source.path}: the split {source.split!r} is empty.")
    self._images: list[str] = []
    for place in places if isinstance(places, list) else [places]:
      try:
        self._images += _images(self._root, place)
      except errors.DataError as e:
        raise errors.DataError(f"{source.path}: {source.split}: {e}") from None
    listed = "\n".join(self._images).encode("utf-8", "surrogatepass")
    self._crc = zlib.crc32(listed, zlib.crc32(data))

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    name = self._images[i]
    try:
      data = files.read_under(self._root, name)
      size = pictures.size_of(data)
      budget = rle.Budget()
      things = [self._thing(values, size, where, budget) for values, where in self._labels(name)]
      return pictures.row(data, name, name, size, things, masks=self._spec.masks)
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: {e}") from None

  def where(self, i: int) -> str:
    """What to call a row in a message."""
    return os.path.join(self._root, self._images[i])

  def fingerprint(self) -> str:
    """Of the data.yaml and the names of the images; label files are not read for it."""
    return f"yolo:{self._spec.masks:d}:{self._spec.split}:{len(self)} rows:{self._crc:08x}"

  def digests(self) -> array.array:
    """uint16[rows], of the names of the images alone."""
    return digests.of(name.encode("utf-8", "surrogatepass") for name in self._images)

  def _labels(self, name: str) -> Iterator[tuple[list[float], str]]:
    """(numbers, 'labels/a.txt:3') of each line of an image's label file."""
    path = _label_path(name)
    if not os.path.lexists(os.path.join(self._root, path)):
      return
    data = files.read_under(self._root, path, max_bytes=_MAX_LABEL_BYTES)
    for n, line in enumerate(data.split(b"\n"), 1):
      if line.strip():
        try:
          yield [float(word) for word in line.split()], f"{path}:{n}"
        except ValueError:
          raise errors.DataError(f"{path}:{n}: {line[:60]!r} holds what is no number.") from None

  def _thing(
      self, values: Sequence[float], size: tuple[int, int], where: str, budget: rle.Budget
  ) -> pictures.Thing:
    height, width = size
    number, *shares = values
    if number not in self._names:
      raise errors.DataError(f"{where}: class {number:g} is not among the names of the data.yaml.")
    if not all(-0.01 <= v <= 1.01 for v in shares):  # NaN too.
      raise errors.DataError(f"{where}: coordinates must be shares of the picture, 0 to 1.")
    label = self._names[int(number)]
    if len(shares) == 4:
      x, y, w, h = shares
      box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
      return pictures.Thing(label, box)
    if len(shares) < 6 or len(shares) % 2:
      raise errors.DataError(
          f"{where}: {len(shares)} numbers after the class; expected 4 of a box, or x y of three"
          " points or more."
      )
    sides = (width, height) * (len(shares) // 2)
    points = [v * side for v, side in zip(shares, sides, strict=True)]
    box = (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))
    return pictures.Thing(label, box, mask=lambda: rle.fill_polygon(points, *size, budget))


def _label_path(name: str) -> str:
  """'labels/train/a.txt' of 'images/train/a.jpg'."""
  parts = os.path.splitext(name)[0].split("/")
  places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
  if places:
    parts[places[-1]] = "labels"
  return "/".join(parts) + ".txt"


def _images(root: str, place: Any) -> list[str]:
  """The images that an entry of the data.yaml stands for, as paths below `root`."""
  if not isinstance(place, str):
    raise errors.DataError(f"expected the path of a folder or of a list, found {place!r}.")
  place = place.rstrip("/")
  if place.startswith("../") and not os.path.exists(os.path.join(root, place)):
    place = place.removeprefix("../")  # As some tools write it, who mean the file's own folder.
  inside = files.names_under(root, place)
  if inside is not None:
    above = "" if place == "." else f"{os.path.normpath(place)}/"
    return [f"{above}{name}" for name in inside if name.lower().endswith(_ENDINGS)]
  lines = files.read_under(root, place, max_bytes=_MAX_LIST_BYTES)
  try:
    names = [line.strip() for line in lines.decode().splitlines()]
  except UnicodeDecodeError:
    raise errors.DataError(f"{place!r} is no list of paths: not UTF-8.") from None
  return [name.removeprefix("./") for name in names if name]


def _root(source: Yolo, content: dict[str, Any]) -> str:
  if source.root:
    return source.root
  own = os.path.dirname(source.path) or "."
  below = content.get("path") or "."
  if not isinstance(below, str):
    raise errors.DataError(f"{source.path}: path is {below!r}; expected a folder.")
  root = os.path.normpath(os.path.join(own, below))
  inside = os.path.commonpath([os.path.realpath(own), os.path.realpath(root)])
  if inside != os.path.realpath(own) or not os.path.isdir(root):
    raise errors.DataError(
        f"{source.path}: its path {below!r} is no folder below {own!r}. Set Yolo.root to the folder"
        " that its paths are relative to."
    )
  return root


def _class_names(content: dict[str, Any], path: str) -> dict[int, str]:
  names = content.get("names")
  if isinstance(names, list):
    names = dict(enumerate(names))
  good = isinstance(names, dict) and names
  if not good or not all(type(k) is int and isinstance(v, (str, int)) for k, v in names.items()):
    raise errors.DataError(f"{path}: names must be a list of class names, or numbers with names.")
  return {k: str(v) for k, v in names.items()}


def _read_yaml(path: str) -> bytes:
  try:
    return disk.read(path, max_bytes=_MAX_YAML_BYTES)
  except OSError as e:
    raise errors.ConfigError(f"Cannot read {path!r}: {e.strerror or e}.") from None


def _yaml(data: bytes, path: str) -> dict[str, Any]:
  """Lists, dicts, texts and numbers only: tags that would make objects are refused, and aliases,
  of which a few lines can mean gigabytes.
  """
  import yaml  # Comes with ml_collections.

  loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # The C one is 10 times as fast.
  try:
    depth = 0
    for event in yaml.parse(data, Loader=loader):
      depth += isinstance(event, yaml.CollectionStartEvent)
      depth -= isinstance(event, yaml.CollectionEndEvent)
      if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
        raise errors.DataError(f"{path}:{event.start_mark.line + 1}: an alias, or too deep a nest.")
    content = yaml.load(data, Loader=loader)
  except errors.DataError:
    raise
  except Exception as e:  # Its constructors of dates and numbers raise many types.
    raise errors.DataError(f"{path} is no data.yaml: {e}".replace("\n", " ")) from None
  if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
    raise errors.DataError(f"{path}: expected a data.yaml with names, train and val.")
  return content
