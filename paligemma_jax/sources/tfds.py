"""TFDS datasets in ArrayRecord files, read by index and without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json

_MAX_DEPTH = 64  # A feature takes four levels of its own.
_MAX_CLASSES = 1_000_000  # TFDS makes a name for each.
_MAX_ROWS = 1 << 32  # Of a split.
_PLAIN = re.compile(r"[\w.-]*")  # Names of which no path can be made.
_TEMPLATE = re.compile(  # Of the files' names, as TFDS fills it in.
  r"(?:[\w.-]|\{(?:DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\})*"
)
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@spec_lib.spec
class Tfds:
  """Rows of a dataset that `paligemma_jax.prepare` wrote, or TFDS with file_format="array_record".

  Columns are the dataset's features, those of nested ones under 'outer/inner'. Texts are str, lists
  of texts lists of str, images their encoded bytes, numbers Python's, anything else numpy arrays.

  Attributes:
    name: 'okvqa', or 'chartqa/human' where a dataset has several configurations.
    split: a split, or TFDS arithmetic as in 'train[:98%]+restval'.
    data_dir: the folder above the dataset's; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    version: '' is the newest there.
    names: columns of class numbers to read as the names of the classes.
  """

  name: str
  split: str = "train"
  data_dir: str = ""
  version: str = ""
  names: tuple = ()

  def open(self) -> TfdsRows:
    """Opens the files.

    Raises:
      ConfigError: no such dataset or split; says how to build one.
    """
    return TfdsRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns, read from the dataset's own description; () while it is not there."""
    try:
      return tuple(sorted(name for name, _ in _flat(_features(self._folder()))))
    except (errors.ConfigError, OSError):
      return ()

  def _folder(self) -> pathlib.Path:
    above = pathlib.Path(self.data_dir or default_data_dir()) / self.name
    found = above.iterdir() if above.is_dir() else ()
    there = [p.name for p in found if _VERSION.fullmatch(p.name)]
    there = [v for v in there if (above / v / "dataset_info.json").is_file()]
    versions = [v for v in there if v == self.version] if self.version else there
    if there and not versions:
      raise errors.ConfigError(
        f"{above} has {', '.join(sorted(there))} of the dataset {self.name!r}, but version"
        f" {self.version} is needed: its rows changed. Build it anew: {self._how()}."
      )
    if not versions:
      raise errors.ConfigError(
        f"There is no dataset {self.name!r} in {above.parent if '/' not in self.name else above}."
        f" Build it: {self._how()}; or name its place in $TFDS_DATA_DIR."
      )
    return above / max(versions, key=lambda v: tuple(map(int, v.split("."))))

  def _how(self) -> str:
    return f"python -m paligemma_jax.prepare {self.name.partition('/')[0]} says what to download"


class TfdsRows:
  """The rows of a `Tfds`. Picklable: the files are opened again where it arrives."""

  def __init__(self, source: Tfds):
    self._spec = source
    self._connect()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"row {i} of {len(self)}")
    try:
      row = _flat(self._rows[i])
      found = {name: _images(v) if name in self._images else _plain(v) for name, v in row}
      for name in self._spec.names:
        found[name] = _class_names(name, found[name], self._classes[name])
      return found
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: {e}") from None
    except Exception as e:  # Of TFDS, protocol buffers and ArrayRecord, on damage: many types.
      why = " ".join(str(e).split())[:300]
      raise errors.DataError(
        f"{self.where(i)}: cannot be read: {type(e).__name__}: {why}."
      ) from None

  def where(self, i: int) -> str:
    """What to call a row in a message."""
    return f"row {i} of {self._spec.name} {self._spec.split}"

  def fingerprint(self) -> str:
    """Of names, numbers of rows and sizes of the files; their content is not read."""
    return f"tfds:{self._spec.name}:{self._spec.split}:{len(self)} rows:{self._crc:08x}"

  def __getstate__(self) -> dict[str, Any]:
    return {"_spec": self._spec}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self._spec = state["_spec"]
    self._connect()

  def _connect(self) -> None:
    folder = self._spec._folder()
    for entry in sorted(folder.iterdir()):
      if not (entry.is_file() or entry.is_dir()):
        raise errors.ConfigError(f"{entry} is not a regular file.")
    sizes = sorted((p.name, p.stat().st_size) for p in folder.iterdir() if "array_record" in p.name)
    if not sizes:
      raise errors.ConfigError(
        f"{folder} has no ArrayRecord files. Prepare it with file_format='array_record': other"
        " formats cannot be read by index."
      )
    self._crc = zlib.crc32(repr(sizes).encode())
    known = ", ".join(_checked_splits(folder, len(sizes)))
    if (folder / "features.json").exists():
      _check_classes(_read_json(folder / "features.json"), str(folder / "features.json"))
    import tensorflow_datasets as tfds  # Half a second that a config does not need.

    try:
      builder = tfds.builder_from_directory(folder)
      self._images = frozenset(_image_columns(builder.info.features))
      classes = dict(_class_columns(builder.info.features))
      encoded = _nested({name: _undecoded(tfds) for name in self._images})
      self._rows = builder.as_data_source(split=self._spec.split, decoders=encoded)
    except Exception as e:  # Of TFDS, protocol buffers and ArrayRecord, on damage: many types.
      raise errors.ConfigError(
        f"Cannot read split {self._spec.split!r} of {folder}, which has {known}: {e}"
      ) from None
    what = f"column of class numbers in {folder}"
    self._classes = {name: errors.pick(classes, name, what) for name in self._spec.names}


def _class_names(column: str, value: Any, names: Sequence[str]) -> Any:
  """The names of the classes whose numbers a column holds; -1 stands for no label."""
  if isinstance(value, (list, np.ndarray)):
    return [_class_names(column, v, names) for v in value]
  number = int(value)
  if number == -1:
    return None
  if not 0 <= number < len(names):
    raise errors.DataError(f"column {column!r} is {number}, but there are {len(names)} classes.")
  return names[number]


def default_data_dir() -> pathlib.Path:
  """Where datasets lie when nobody says: TFDS's own rule."""
  return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _features(folder: pathlib.Path) -> Mapping[str, Any]:
  """The features.json of a dataset, its nesting only: {name: {} or more of the same}."""
  return _nesting(_read_json(folder / "features.json"))


def _nesting(content: Any) -> Mapping[str, Any]:
  """FeaturesDict, alone or in a Sequence, by the JSON that TFDS writes."""
  content = content if isinstance(content, Mapping) else {}
  if isinstance(content.get("sequence"), Mapping):
    return _nesting(content["sequence"].get("feature"))
  inner = content.get("featuresDict")
  inner = inner.get("features") if isinstance(inner, Mapping) else {}
  inner = inner if isinstance(inner, Mapping) else {}
  return {name: _nesting(value) for name, value in inner.items()}


def _check_classes(content: Any, where: str) -> None:
  """Refuses a description that names classes outside of TFDS, which would import their modules."""
  if isinstance(content, list):
    for value in content:
      _check_classes(value, where)
  if not isinstance(content, Mapping):
    return
  for key, value in content.items():
    named = key in _CLASS_KEYS and isinstance(value, str)
    if key in ("numClasses", "num_classes") and not _is_count(value, _MAX_CLASSES):
      raise errors.ConfigError(
        f"{where}: a column of {str(value)[:60]!r} classes; expected 0 to {_MAX_CLASSES}."
      )
    if named and not value.startswith("tensorflow_datasets.core.features."):
      raise errors.ConfigError(
        f"{where} names the class {value!r}; only those of tensorflow_datasets are loaded."
      )
    _check_classes(value, where)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return strict_json.read_object(path, max_depth=_MAX_DEPTH)
  except (OSError, strict_json.Malformed) as e:
    raise errors.ConfigError(f"Cannot read {str(path)!r}: {strict_json.reason(e)}.") from None


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f"{above}{name}/")
    else:
      yield above + name, value


def _images(value: Any) -> Any:
  """The bytes of an encoded image, or a list of those."""
  return value if isinstance(value, bytes) else [bytes(v) for v in value]


def _plain(value: Any) -> Any:
  """Texts as str, numpy's numbers as Python's."""
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return value  # A tensor of raw bytes.
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
    return [_plain(v) for v in value]
  return value


def _image_columns(features: Any, above: str = "") -> Iterator[str]:
  """Columns of images, and of sequences of images."""
  inner = getattr(features, "feature", features)
  if type(inner).__name__ == "FeaturesDict":
    for name, feature in inner.items():
      yield from _image_columns(feature, f"{above}/{name}" if above else name)
  elif type(inner).__name__ == "Image":
    yield above


def _class_columns(features: Any, above: str = "") -> Iterator[tuple[str, Sequence[str]]]:
  """(column, names of its classes) of columns of class numbers, and of sequences of those."""
  inner = getattr(features, "feature", features)
  if type(inner).__name__ == "FeaturesDict":
    for name, feature in inner.items():
      yield from _class_columns(feature, f"{above}/{name}" if above else name)
  elif type(inner).__name__ == "ClassLabel":
    yield above, inner.names


def _undecoded(tfds: Any) -> Any:
  """A decoder that hands images on as they are stored, lists of images too."""
  decoder = tfds.decode.SkipDecoding()
  # TFDS's own has this method for TensorFlow only, and fails without it on a sequence of images.
  decoder.decode_batch_example_np = decoder.decode_example_np
  return decoder


def _nested(paths: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for path, value in paths.items():
    *above, last = path.split("/")
    place = tree
    for name in above:
      place = place.setdefault(name, {})
    place[last] = value
  return tree


def _checked_splits(folder: pathlib.Path, num_files: int) -> list[str]:
  """The names of the splits, by a description of which no path out of the folder can be made."""
  path = folder / "dataset_info.json"
  content = _read_json(path)
  splits = content.get("splits") or []
  if not isinstance(splits, list) or not all(isinstance(split, Mapping) for split in splits):
    raise errors.ConfigError(f"{path}: splits is {str(splits)[:60]!r}; expected a list of objects.")
  names = [split.get("name", "") for split in splits]
  for name in (content.get("name", ""), *names):
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
      raise errors.ConfigError(f"{path}: the name {str(name)[:60]!r} is no plain name.")
  if len(set(names)) < len(names):
    raise errors.ConfigError(f"{path}: describes a split twice, of {', '.join(names)[:200]}.")
  for name, split in zip(names, splits, strict=True):
    template = split.get("filepathTemplate", "")
    if not isinstance(template, str) or not _TEMPLATE.fullmatch(template):
      raise errors.ConfigError(
        f"{path}: the files of {name!r} are called {str(template)[:100]!r}; expected plain names"
        " of files beside it."
      )
    lengths = split.get("shardLengths") or []
    good = isinstance(lengths, list) and all(_is_count(n, _MAX_ROWS) for n in lengths)
    if not good or len(lengths) > num_files or sum(map(int, lengths)) > _MAX_ROWS:
      raise errors.ConfigError(
        f"{path}: {name!r} has the shards {str(lengths)[:60]}; expected a number of rows for each"
        f" of its files, of which there are {num_files} beside it."
      )
  return names


def _is_count(value: Any, most: int) -> bool:
  """A whole number from 0 to `most`, also as a text, as protocol buffers are written in JSON."""
  text = str(value) if type(value) is int else value
  return isinstance(text, str) and text.isascii() and text.isdigit() and int(text[:20]) <= most
