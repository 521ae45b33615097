"""TFDS datasets in ArrayRecord files, read by index without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files
from paligemma_jax.sources import hf_dataset
from paligemma_jax.sources import jsonl

_MAX_DEPTH = 64  # A feature takes four levels of its own.
_MAX_CLASSES = 1_000_000  # TFDS allocates a name for each.
_MAX_ROWS = 1 << 32  # Of a split.
_PLAIN = re.compile(r"[\w.-]*")  # Names that are no paths.
_TEMPLATE = re.compile(  # Of file names in TFDS.
  r"(?:[\w.-]|\{(?:DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\})*"
)
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@spec_lib.spec
class Tfds:
  """Rows of a dataset that `paligemma_jax.prepare` wrote, or TFDS with file_format="array_record".

  Columns are the dataset's features, nested ones as 'outer/inner'. Texts are str, lists of texts
  lists of str, images their encoded bytes, numbers Python's, anything else numpy arrays.

  Attributes:
    name: 'okvqa', or 'chartqa/human' where a dataset has several configurations.
    split: a split, or a TFDS expression such as 'train[:98%]+restval'.
    data_dir: the folder above the dataset's; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    version: '' is the newest one there.
    names: columns of class numbers to read as class names.
  """

  name: str
  split: str = "train"
  data_dir: str = ""
  version: str = ""
  names: tuple = ()

  def open(self) -> TfdsRows:
    """ConfigError without such a dataset, split or column."""
    return TfdsRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns in the dataset's description; () without one."""
    try:
      described = files.read_json(self._folder() / "features.json", max_depth=_MAX_DEPTH)
      return tuple(sorted(dict(jsonl.flat(_nesting(described)))))
    except (errors.ConfigError, OSError):
      return ()

  def _folder(self) -> pathlib.Path:
    how = f"python -m paligemma_jax.prepare {self.name.partition('/')[0]} says what to download"
    above = pathlib.Path(self.data_dir or default_data_dir()) / self.name
    there = [p.parent.name for p in above.glob("*/dataset_info.json") if p.is_file()]
    there = [v for v in there if _VERSION.fullmatch(v)]
    versions = [v for v in there if v == self.version] if self.version else there
    if there and not versions:
      raise errors.ConfigError(
        f"{above} has {', '.join(sorted(there))} of the dataset {self.name!r}, but version"
        f" {self.version} is needed: its rows changed. Build it again: {how}."
      )
    if not versions:
      raise errors.ConfigError(
        f"There is no dataset {self.name!r} in {above.parent if '/' not in self.name else above}."
        f" Build it: {how}; or name its place in $TFDS_DATA_DIR."
      )
    return above / max(versions, key=lambda v: tuple(map(int, v.split("."))))


class TfdsRows(files.Rows):
  """The rows of a `Tfds`. Picklable: the files are opened again when it is loaded."""

  def __init__(self, source: Tfds):
    self._spec = source
    folder = source._folder()
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
    described = folder / "features.json"
    if described.exists():
      _check_classes(files.read_json(described, max_depth=_MAX_DEPTH), str(described))
    import tensorflow_datasets as tfds  # Half a second that a config does not need.

    try:
      builder = tfds.builder_from_directory(folder)
      features = builder.info.features
      self._images = frozenset(name for name, _ in _columns_of("Image", features))
      classes = {name: label.names for name, label in _columns_of("ClassLabel", features)}
      encoded = _nested({name: _undecoded(tfds) for name in self._images})
      self._rows = builder.as_data_source(split=source.split, decoders=encoded)
    except Exception as e:  # Of TFDS, protocol buffers and ArrayRecord, on damage: many types.
      raise errors.ConfigError(
        f"Cannot read split {source.split!r} of {folder}, which has {known}: {e}"
      ) from None
    what = f"column of class numbers in {folder}"
    self._classes = {name: errors.pick(classes, name, what) for name in source.names}

  def __reduce__(self):
    return TfdsRows, (self._spec,)

  def __len__(self) -> int:
    return len(self._rows)

  def _row(self, i: int) -> dict[str, Any]:
    try:
      found = {}
      for name, value in jsonl.flat(self._rows[i]):
        found[name] = value if name in self._images else _plain(value)
        if name in self._images and not isinstance(value, bytes):
          found[name] = [bytes(image) for image in value]
      for name in self._spec.names:
        found[name] = hf_dataset.class_names(name, found[name], self._classes[name])
      return found
    except errors.DataError:
      raise
    except Exception as e:  # Of TFDS, protocol buffers and ArrayRecord, on damage: many types.
      why = " ".join(str(e).split())[:300]
      raise errors.DataError(f"cannot be read: {type(e).__name__}: {why}.") from None

  def where(self, i: int) -> str:
    return f"row {i} of {self._spec.name} {self._spec.split}"

  def fingerprint(self) -> str:
    """Of names, numbers of rows and sizes of the files."""
    return f"tfds:{self._spec.name}:{self._spec.split}:{len(self)} rows:{self._crc:08x}"


def default_data_dir() -> pathlib.Path:
  """TFDS's own default folder."""
  return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _nesting(content: Any) -> Mapping[str, Any]:
  """The nesting of a FeaturesDict, alone or in a Sequence, in the JSON of TFDS."""
  content = content if isinstance(content, Mapping) else {}
  if isinstance(content.get("sequence"), Mapping):
    return _nesting(content["sequence"].get("feature"))
  inner = content.get("featuresDict")
  inner = inner.get("features") if isinstance(inner, Mapping) else {}
  inner = inner if isinstance(inner, Mapping) else {}
  return {name: _nesting(value) for name, value in inner.items()}


def _check_classes(content: Any, where: str) -> None:
  """Refuses a description that names classes outside TFDS, whose modules would be imported."""
  members = enumerate(content) if isinstance(content, list) else ()
  for key, value in content.items() if isinstance(content, Mapping) else members:
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


def _plain(value: Any) -> Any:
  """Texts as str, NumPy's numbers as Python's."""
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


def _columns_of(kind: str, features: Any, above: str = "") -> Iterator[tuple[str, Any]]:
  """(column, feature) of the columns of a kind, and of sequences of that kind."""
  inner = getattr(features, "feature", features)
  if type(inner).__name__ == "FeaturesDict":
    for name, feature in inner.items():
      yield from _columns_of(kind, feature, f"{above}/{name}" if above else name)
  elif type(inner).__name__ == kind:
    yield above, inner


def _undecoded(tfds: Any) -> Any:
  """A decoder that returns images, and lists of images, as they are stored."""
  decoder = tfds.decode.SkipDecoding()
  # TFDS has this method for TensorFlow only, and fails without it on a sequence of images.
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
  """The names of the splits, from a description that cannot lead out of the folder."""
  path = folder / "dataset_info.json"
  content = files.read_json(path, max_depth=_MAX_DEPTH)
  splits = content.get("splits") or []
  if not isinstance(splits, list) or not all(isinstance(split, Mapping) for split in splits):
    raise errors.ConfigError(f"{path}: splits is {str(splits)[:60]!r}; expected a list of objects.")
  names = [split.get("name", "") for split in splits]
  for name in (content.get("name", ""), *names):
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
      raise errors.ConfigError(
        f"{path}: the name {str(name)[:60]!r} must have letters, digits, _ . and - only."
      )
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
  """Whether it is a whole number from 0 to `most`, possibly as a text (protobuf's JSON)."""
  text = str(value) if type(value) is int else value
  return isinstance(text, str) and text.isascii() and text.isdigit() and int(text[:20]) <= most
