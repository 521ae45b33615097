"""TFDS datasets in ArrayRecord files, read by index and without TensorFlow."""

from __future__ import annotations

import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib

_VERSION = re.compile(r"\d+\.\d+\.\d+")


@spec_lib.spec
class Tfds:
  """Rows of a dataset as `tools.prepare`, or TFDS itself with file_format="array_record", wrote it.

  Columns are the dataset's features, those of nested ones under 'outer/inner'. Texts are str, lists
  of texts lists of str, images their encoded bytes, numbers Python's, anything else numpy arrays.

  Attributes:
    name: 'okvqa', or 'chartqa/human' where a dataset has several configurations.
    split: a split, or TFDS arithmetic as in 'train[:98%]+restval'.
    data_dir: the folder above the dataset's; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    version: '' is the newest there.
  """

  name: str
  split: str = "train"
  data_dir: str = ""
  version: str = ""

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
    if self.version:
      versions = [self.version] if (above / self.version).is_dir() else []
    else:
      found = above.iterdir() if above.is_dir() else ()
      versions = [p.name for p in found if _VERSION.fullmatch(p.name)]
    versions = [v for v in versions if (above / v / "dataset_info.json").is_file()]
    if not versions:
      raise errors.ConfigError(
          f"There is no dataset {self.name!r} in {above.parent if '/' not in self.name else above}."
          f" Build it: python -m tools.prepare {self.name.partition('/')[0]} says what to download;"
          " or name its place in $TFDS_DATA_DIR."
      )
    return above / max(versions, key=lambda v: tuple(map(int, v.split("."))))


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
    row = _flat(self._rows[i])
    return {name: _images(v) if name in self._images else _plain(v) for name, v in row}

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
    sizes = sorted((p.name, p.stat().st_size) for p in folder.iterdir() if "array_record" in p.name)
    if not sizes:
      raise errors.ConfigError(
          f"{folder} has no ArrayRecord files. Prepare it with file_format='array_record': other"
          " formats cannot be read by index."
      )
    self._crc = zlib.crc32(repr(sizes).encode())
    import tensorflow_datasets as tfds  # Half a second that a config does not need.

    try:
      builder = tfds.builder_from_directory(folder)
      self._images = frozenset(_image_columns(builder.info.features))
      encoded = _nested({name: _undecoded(tfds) for name in self._images})
      self._rows = builder.as_data_source(split=self._spec.split, decoders=encoded)
    except (ValueError, KeyError, OSError, AssertionError) as e:
      known = ", ".join(_splits(folder))
      raise errors.ConfigError(
          f"Cannot read split {self._spec.split!r} of {folder}, which has {known}: {e}"
      ) from None


def default_data_dir() -> pathlib.Path:
  """Where datasets lie when nobody says: TFDS's own rule."""
  return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _features(folder: pathlib.Path) -> Mapping[str, Any]:
  """The features.json of a dataset, its nesting only: {name: {} or more of the same}."""
  content = json.loads((folder / "features.json").read_text(encoding="utf-8"))
  return _nesting(content)


def _nesting(content: Any) -> Mapping[str, Any]:
  """FeaturesDict, alone or in a Sequence, by the JSON that TFDS writes."""
  content = content if isinstance(content, Mapping) else {}
  if "sequence" in content:
    return _nesting(content["sequence"].get("feature", {}))
  inner = content.get("featuresDict", {}).get("features", {})
  return {name: _nesting(value) for name, value in inner.items()}


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


def _splits(folder: pathlib.Path) -> list[str]:
  info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
  return [split["name"] for split in info.get("splits", ())]
