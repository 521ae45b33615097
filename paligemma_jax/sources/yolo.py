"""YOLO folders: a data.yaml, images, and a text file of labels for each image."""

from __future__ import annotations

import codecs
import functools
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.regions import rle
from paligemma_jax.sources import annotated_images
from paligemma_jax.sources import files

_MAX_YAML_BYTES = 1 << 19  # 20 000 classes.
_MAX_LABEL_BYTES = 4 << 20
_MAX_DEPTH = 8
_UNLABELLED = ("few", "empty")
_TAGS = ("!", "tag:yaml.org,2002:python/")


@spec_lib.spec
class Yolo(annotated_images.Source):
  """One row for each image of a split, in natural order of the names.

  Columns: see `sources.annotated_images`. A label is a box ("class x y width height", centre and
  sides as fractions of the image), an outline ("class x y x y x y …"), or, where the data.yaml has
  a `kpt_shape`, a box with keypoints, which are left out.

  Attributes:
    path: the data.yaml: `names` (a list, or numbers to texts), and for each split a folder of
      images, a .txt file that lists them, or several of those. Labels are at the image's path with
      its last folder "images" replaced by "labels"; else with another folder replaced, or beside
      the image.
    split: train, val, test or any other in the file.
    root: the folder that the file's paths are relative to; '' is the file's own folder, or the
      file's `path` below it, if that is relative. Nothing outside is read.
    masks: True adds the masks; every object must then have an outline.
    exif, bad_annotations: see `sources.annotated_images`; tools show images upright.
    unlabelled: images without a label file have no objects; "few": opening fails where they are
      more than half; "empty": they may be any number.
  """

  path: str
  split: str = "train"
  root: str = ""
  masks: bool = False
  exif: bool = True
  bad_annotations: str = "error"
  unlabelled: str = "few"

  def __post_init__(self):
    super().__post_init__()
    errors.pick(dict.fromkeys(_UNLABELLED), self.unlabelled, "Yolo.unlabelled")

  def open(self) -> YoloRows:
    """ConfigError without the file or split, DataError for a wrong file or missing labels."""
    return YoloRows(self)


class YoloRows(annotated_images.Rows):
  """The rows of a `Yolo`. Picklable; holds the names of the images."""

  def __init__(self, source: Yolo):
    self._spec = source
    data = files.read_data(source.path, max_bytes=_MAX_YAML_BYTES)
    content = _yaml(data, source.path)
    self._classes = _class_names(content, source.path)
    self._root, above = _root(source, content)
    splits = {k: v for k, v in content.items() if k not in ("names", "nc", "path")}
    places = errors.pick(splits, source.split, f"split of {source.path}")
    if not places:
      raise errors.ConfigError(f"{source.path}: the split {source.split!r} is empty.")
    self._points = _num_points(content, source.path)
    self._names = []
    for place in places if isinstance(places, list) else [places]:
      with errors.within(f"{source.path}: {source.split}"):
        self._names += _images(self._root, place, above)
    self._labels: list[str] = []
    for name in self._names:
      found = (files.find_under(self._root, path) for path in _label_paths(name))
      self._labels.append(next(filter(None, found), ""))
    if source.unlabelled == "few":
      self._check_labels(places)
    listed = "\n".join(self._names).encode("utf-8", "surrogatepass")
    self._crc = zlib.crc32(listed, zlib.crc32(data))

  def _row(self, i: int) -> dict[str, Any]:
    name = self._names[i]
    data = files.read_under(self._root, name)
    things = list(self._lines(self._labels[i]))
    make = functools.partial(self._thing, rle.Budget())
    return annotated_images.row(data, name, name, things, make, self._spec, self.where(i))

  def where(self, i: int) -> str:
    return os.path.join(self._root, self._names[i])

  def fingerprint(self) -> str:
    """Of the data.yaml and the images' names, not of the label files."""
    return f"yolo:{self._spec.masks:d}:{self._spec.split}:{len(self)} rows:{self._crc:08x}"

  def _check_labels(self, places: Any) -> None:
    missing = [n for n, path in zip(self._names, self._labels, strict=True) if not path]
    num = len(self._names)
    annotated_images.check_found(
      num - len(missing),
      num,
      f"images of {self._spec.path}, {self._spec.split}: {places}, have a label file; there is"
      f" none for {', '.join(map(repr, missing[:3]))}",
      [path for name in missing[:1] for path in _label_paths(name)],
      "If these images hold no object, set Yolo.unlabelled='empty'.",
    )

  def _lines(self, path: str) -> Iterator[tuple[str, list[bytes]]]:
    """('labels/a.txt:3', words) of each line of a label file."""
    if not path:
      return
    data = files.read_under(self._root, path, max_bytes=_MAX_LABEL_BYTES)
    for n, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
      if line.strip():
        yield f"{path}:{n}", line.split()

  def _thing(
    self, budget: rle.Budget, words: Sequence[bytes], size: annotated_images.Size
  ) -> annotated_images.Thing:
    height, width = size
    try:
      if any(b"_" in word for word in words):  # Python also accepts 1_0.
        raise ValueError
      number, *values = (float(word) for word in words)
    except ValueError:
      line = b" ".join(words)[:60]
      raise errors.DataError(f"{line!r}; expected numbers.") from None
    if number not in self._classes:
      raise errors.DataError(f"class {number:g} is not among the names of the data.yaml.")
    if self._points:
      if len(values) != 4 + self._points:
        raise errors.DataError(
          f"{len(values)} numbers after the class; kpt_shape of the data.yaml asks for 4 of a box"
          f" and {self._points} of keypoints."
        )
      values = values[:4]
    if not all(-0.01 <= v <= 1.01 for v in values):  # NaN too.
      raise errors.DataError(
        "coordinates must be fractions of the image, 0 to 1 (those in pixels are divided by its"
        " width and height)."
      )
    label = self._classes[int(number)]
    if len(values) == 4:
      x, y, w, h = values
      box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
      return annotated_images.Thing(label, box)
    if len(values) < 6 or len(values) % 2:
      raise errors.DataError(
        f"{len(values)} numbers after the class; expected 4 of a box, or x y of three points or"
        " more (of keypoints the data.yaml says kpt_shape)."
      )
    sides = (width, height) * (len(values) // 2)
    points = [v * side for v, side in zip(values, sides, strict=True)]
    box = (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))
    return annotated_images.Thing(label, box, mask=lambda: rle.decode([points], *size, budget))


def _label_paths(name: str) -> list[str]:
  """The candidates for an image's labels: of 'images/train/a.jpg' 'labels/train/a.txt', …"""
  *above, last = os.path.splitext(name)[0].split("/")
  usual = [i for i, part in enumerate(above) if part.lower() == "images"][-1:]
  places = [*usual, *(i for i in range(len(above) - 1, -1, -1) if i not in usual)]
  swapped = [[*above[:i], "labels", *above[i + 1 :]] for i in places]
  return ["/".join([*folder, f"{last}.txt"]) for folder in (*swapped, above)]


def _images(root: str, place: Any, above: str) -> list[str]:
  """The paths below `root` of the images of an entry, relative to `above`, of the data.yaml."""
  if not isinstance(place, str):
    raise errors.DataError(f"expected the path of a folder or of a list, found {place!r}.")
  place = place.replace("\\", "/").rstrip("/")
  if place.startswith("../") and not os.path.exists(os.path.join(root, place)):
    place = place.removeprefix("../")  # Some tools mean the file's own folder by it.
  place = f"{above}/{place}" if above and not place.startswith("/") else place
  inside = files.paths_under(root, place)
  if inside is None:
    names = [name.removeprefix("./") for name in files.listed_under(root, place)]
    if any("\0" in name for name in names):
      raise errors.DataError(f"{place!r} is no list of paths: it holds a NUL (UTF-16?).")
    return [name for name in names if name]
  folder, paths = inside
  other = [path for path in paths if path.lower().endswith(image_files.OTHER_ENDINGS)]
  if other:
    some = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
    logging.warning(
      "%s: %d images are left out, of unsupported formats: %s; convert them to PNG or JPEG",
      *(os.path.join(root, folder), len(other), some),
    )
  paths = [path for path in paths if path.lower().endswith(image_files.ENDINGS)]
  if not paths:
    known = ", ".join(image_files.FORMATS)
    raise errors.DataError(f"the folder {place!r} holds no image ({known}).")
  return [f"{folder}/{path}" if folder else path for path in paths]


def _root(source: Yolo, content: dict[str, Any]) -> tuple[str, str]:
  """The folder that holds images and labels, and the folder below it that paths are relative to."""
  if source.root:
    return source.root, ""
  own = os.path.dirname(source.path) or "."
  below = content.get("path") or "."
  if not isinstance(below, str) or "\0" in below:
    raise errors.DataError(f"{source.path}: path is {below!r}; expected a folder.")
  root = os.path.normpath(os.path.join(own, below))
  inside = os.path.commonpath([os.path.realpath(own), os.path.realpath(root)])
  if inside != os.path.realpath(own) or not os.path.isdir(root):
    raise errors.DataError(
      f"{source.path}: its path {below!r} is no folder below {own!r}. Set Yolo.root to the folder"
      " that its paths are relative to."
    )
  parts = os.path.normpath(below).split("/")
  at = next((i for i, part in enumerate(parts) if part.lower() == "images"), 0)
  if at or parts[0].lower() == "images":  # The labels are beside that folder.
    return os.path.normpath(os.path.join(own, *parts[:at])), "/".join(parts[at:])
  return root, ""


def _class_names(content: dict[str, Any], path: str) -> dict[int, str]:
  names: Any = content.get("names")
  if isinstance(names, list):
    names = {str(i): name for i, name in enumerate(names)}
  good = isinstance(names, dict) and names
  if not good or not all(_is_number(k) and isinstance(v, str) for k, v in names.items()):
    raise errors.DataError(f"{path}: names must be a list of class names, or numbers with names.")
  annotated_images.check_classes(names.values(), path)
  return {int(k): v for k, v in names.items()}


def _is_number(text: Any) -> bool:
  return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10


def _num_points(content: dict[str, Any], path: str) -> int:
  """How many numbers of keypoints follow each box."""
  shape = content.get("kpt_shape")
  if not shape:
    return 0
  if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_number, shape)):
    raise errors.DataError(f"{path}: kpt_shape is {shape!r}; expected two numbers, as in [17, 3].")
  return int(shape[0]) * int(shape[1])


def _yaml(data: bytes, path: str) -> dict[str, Any]:
  """Lists, dicts and texts only: YAML would read class names such as no, on or 010 as values.

  Tags that make objects are refused, and aliases, a few lines of which can expand to gigabytes.
  """
  import yaml  # Comes with ml_collections.

  loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # The C one is 10 times as fast.
  try:
    depth = 0
    for event in yaml.parse(data, Loader=loader):
      depth += isinstance(event, yaml.CollectionStartEvent)
      depth -= isinstance(event, yaml.CollectionEndEvent)
      line = event.start_mark.line + 1
      if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
        raise errors.DataError(f"{path}:{line}: an alias, or too deep a nest.")
      if getattr(event, "tag", None) and event.tag.startswith(_TAGS):
        raise errors.DataError(f"{path} is no data.yaml: line {line} has the tag {event.tag!r}.")
    content = yaml.load(data, Loader=loader)
  except errors.DataError:
    raise
  except Exception as e:  # Its readers raise many types.
    raise errors.DataError(f"{path} is no data.yaml: {e}".replace("\n", " ")) from None
  if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
    raise errors.DataError(f"{path}: expected a data.yaml with names, train and val.")
  return content
