"""Hugging Face datasets written by `save_to_disk`, read with pyarrow alone."""

from __future__ import annotations

import bisect
import itertools
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files
from paligemma_jax.sources import jsonl

_LEAST_PYARROW = 15
_MAX_VALUES = 4_000_000  # Of a row: an image of 1100 x 1100 pixels in lists.
_MAX_ROWS = 1 << 32  # Of a split; rows of nulls take no space in a file.
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # Of Arrow's MessageHeader.
_LISTS = ("List", "LargeList")
_SAVE = "datasets.load_dataset(…).save_to_disk(folder)"


@spec_lib.spec
class HfDataset:
  """Rows of a `datasets.Dataset` or `DatasetDict` saved to disk; needs no `datasets`.

  Columns are the dataset's, nested ones as 'outer/inner' (of a list of records a list for each
  field). An image becomes its encoded bytes, a list of images a list of those, everything else its
  Python value.

  Attributes:
    path: the folder that `save_to_disk` wrote.
    split: a split, or an expression such as 'train[:90%]+val'; for a folder of a single dataset '',
      or a part such as '[:90%]'.
    images: the folder that images stored as paths are relative to; '' is none.
    names: columns of class numbers to read as class names.
  """

  path: str
  split: str = ""
  images: str = ""
  names: tuple = ()

  def open(self) -> HfRows:
    """ConfigError without such a folder, split or column."""
    return HfRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns in the dataset's description; () without one."""
    try:
      folder = next(iter(self._folders().values()))
      return tuple(sorted(_features(folder)))
    except (errors.ConfigError, OSError):
      return ()

  def _folders(self) -> dict[str, pathlib.Path]:
    """{split: its folder} of the splits in `split`."""
    root = pathlib.Path(self.path)
    asked = [name for name, _, _ in _parts(self.split)]
    if (root / "state.json").is_file():
      name = files.read_json(root / "state.json").get("_split")
      known = {"": root, name if isinstance(name, str) else "": root}
    elif (root / "dataset_dict.json").is_file():
      splits = files.read_json(root / "dataset_dict.json").get("splits")
      splits = splits if isinstance(splits, (list, dict)) else ()
      known = {name: root / name for name in splits if _is_plain(name)}
    else:
      raise errors.ConfigError(
        f"{self.path!r} is no dataset saved to disk: it has neither state.json nor"
        f" dataset_dict.json. Write it with {_SAVE}."
      )
    for name in asked:
      if name not in known:
        listed = ", ".join(repr(n) for n in known if n) or "none by name"
        raise errors.ConfigError(
          f"{self.path!r} has no split {name!r}; it has {listed}."
          f"{errors.did_you_mean(name, known) if name else ' Set split to one of them.'}"
        )
    return {name: known[name] for name in asked}


class HfRows(files.Rows):
  """The rows of an `HfDataset`. Picklable: the files are mapped again when it is loaded."""

  def __init__(self, source: HfDataset):
    self._spec = source
    folders = source._folders()
    self._splits = {name: _Split(path) for name, path in folders.items()}
    self._parts: list[tuple[str, range]] = []
    for name, start, stop in _parts(source.split):
      size = len(self._splits[name])
      self._parts.append((name, range(size)[_bound(start, size) : _bound(stop, size)]))
    self._starts = [0, *itertools.accumulate(len(rows) for _, rows in self._parts)]
    features = _features(next(iter(folders.values())))
    self._fields = tuple(name for name in features if "/" in name)
    classes = {
      name: names
      for name, feature in features.items()
      if isinstance(names := feature.get("names"), list) and all(isinstance(n, str) for n in names)
    }
    what = f"column of class numbers in {source.path!r}"
    self._classes = {name: errors.pick(classes, name, what) for name in source.names}

  def __reduce__(self):
    return HfRows, (self._spec,)

  def __len__(self) -> int:
    return self._starts[-1]

  def _row(self, i: int) -> dict[str, Any]:
    name, k = self._find(i)
    row = dict(jsonl.flat(self._splits[name].row(k)))
    for column in self._fields:  # An empty list of records does not show its fields.
      if column not in row and row.get(column.rpartition("/")[0], ()) == []:
        row[column] = []
    for column in self._spec.names:
      row[column] = class_names(column, row[column], self._classes[column])
    return {column: self._plain(column, value) for column, value in row.items()}

  def where(self, i: int) -> str:
    name, k = self._find(i)
    return f"row {k} of {self._spec.path}{f' {name}' if name else ''}"

  def fingerprint(self) -> str:
    """Of the dataset's own fingerprint and the sizes of its files."""
    marks = repr(sorted((name, split.mark) for name, split in self._splits.items()))
    return f"hf:{self._spec.split}:{len(self)} rows:{zlib.crc32(marks.encode()):08x}"

  def _find(self, i: int) -> tuple[str, int]:
    """The split of a row, and its number there."""
    part = bisect.bisect_right(self._starts, i) - 1
    name, rows = self._parts[part]
    return name, rows[i - self._starts[part]]

  def _plain(self, column: str, value: Any) -> Any:
    """Images as bytes, in lists too."""
    if isinstance(value, list):
      return [self._plain(column, v) for v in value]
    if not (isinstance(value, dict) and value.keys() == jsonl.IMAGE):
      return value
    if value["bytes"] is not None:
      return value["bytes"]
    if value["path"] is None:
      return None
    if not self._spec.images:
      raise errors.DataError(
        f"column {column!r}: the image is stored as the path {value['path']!r} alone; set"
        " `images` to the folder it is relative to, or save the dataset with its images in it."
      )
    with errors.within(f"column {column!r}"):
      return files.read_under(self._spec.images, value["path"])


def class_names(column: str, value: Any, names: Sequence[str]) -> Any:
  """The class name of a number, or of each in a list; None for no label, which is -1 or null."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, list):
    return [class_names(column, v, names) for v in value]
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, int) and 0 <= value < len(names):
    return names[value]
  if value is None or value == -1:
    return None
  raise errors.DataError(f"column {column!r} is {value!r}, but there are {len(names)} classes.")


class _Split:
  """The record batches of one dataset, mapped into memory."""

  def __init__(self, folder: pathlib.Path):
    try:
      import pyarrow
    except ImportError as e:
      raise errors.ConfigError("Reading a saved dataset needs pyarrow: pip install pyarrow") from e
    if int(pyarrow.__version__.partition(".")[0]) < _LEAST_PYARROW:
      raise errors.ConfigError(
        f"pyarrow {pyarrow.__version__} runs code that a file holds (CVE-2023-47248): pip install"
        f" 'pyarrow>={_LEAST_PYARROW}'"
      )
    self._pyarrow = pyarrow
    state = files.read_json(folder / "state.json")
    if state.get("_indices_data_files"):
      raise errors.ConfigError(
        f"{folder} was saved by an old version of datasets, with an index of its rows beside it;"
        " load it there, and save it again after .flatten_indices()."
      )
    self._batches: list[Any] = []
    self._starts, sizes = [0], []
    listed = state.get("_data_files") or []
    for entry in listed if isinstance(listed, list) else [listed]:
      name: Any = entry.get("filename") if isinstance(entry, Mapping) else None
      if not _is_plain(name):
        raise errors.ConfigError(f"{folder / 'state.json'} names the file {name!r}.")
      sizes.append((name, self._map(folder / name)))
    self.mark = (state.get("_fingerprint"), tuple(sizes))

  def __len__(self) -> int:
    return self._starts[-1]

  def row(self, k: int) -> dict[str, Any]:
    """Row `k`; its offsets and texts are checked, as a damaged file could crash the process."""
    i = bisect.bisect_right(self._starts, k) - 1
    one = self._batches[i].slice(k - self._starts[i], 1)
    try:
      one.validate(full=True)
      if one.nbytes > files.MAX_ROW_BYTES:
        raise errors.DataError(
          f"the row has {one.nbytes} bytes; the limit is {files.MAX_ROW_BYTES}."
        )
      num = sum(_num_values(self._pyarrow, column) for column in one.columns)
      if num > _MAX_VALUES:
        raise errors.DataError(f"the row has {num} values, the limit is {_MAX_VALUES}.")
      return one.to_pylist()[0]
    except errors.DataError:
      raise
    except Exception as e:  # Of pyarrow, of dates beyond Python's and of time zones: many types.
      raise errors.DataError(f"the row cannot be read: {type(e).__name__}: {e}.") from None

  def _map(self, path: pathlib.Path) -> int:
    """Adds the file's batches and returns its size in bytes."""
    ipc, memory_map = self._pyarrow.ipc, self._pyarrow.memory_map
    try:
      atomic_io.open_regular(path).close()  # pyarrow would wait for ever at a pipe.
      with memory_map(str(path)) as mapped:
        for message in ipc.MessageReader.open_stream(mapped):
          if _is_compressed(memoryview(message.metadata)):
            raise errors.ConfigError(
              f"{path} is compressed, unlike any saved dataset; a small file could expand to"
              f" gigabytes. Save it again: {_SAVE}."
            )
      with memory_map(str(path)) as mapped, ipc.open_stream(mapped) as stream:
        if len(set(stream.schema.names)) < len(stream.schema.names):
          raise errors.ConfigError(f"{path} has two columns of one name.")
        for field in stream.schema:
          kind = field.type
          if self._pyarrow.types.is_dictionary(kind):  # A row holds a single value of it.
            kind = kind.value_type if kind.value_type.num_fields == 0 else kind
          _check_type(self._pyarrow.types, kind, f"{path}: column {field.name!r}")
        for batch in stream:
          batch.validate()
          self._batches.append(batch)
          self._starts.append(self._starts[-1] + len(batch))
          if self._starts[-1] > _MAX_ROWS:
            raise errors.ConfigError(f"{path} is damaged: it claims {self._starts[-1]} rows.")
      return os.path.getsize(path)
    except FileNotFoundError:
      raise errors.ConfigError(
        f"{path} is missing; state.json beside it names it. Copy the whole folder."
      ) from None
    except (self._pyarrow.ArrowException, ValueError, OSError) as e:
      raise errors.ConfigError(f"{path} is no Arrow file of a saved dataset: {e}") from None


def _is_compressed(message: memoryview) -> bool:
  """Whether the buffers of an Arrow message are compressed; ValueError for a damaged one."""
  try:
    table = _reference(message, 0)
    kind = message[at] if (at := _field(message, table, 1)) else 0
    if kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
      return False
    header = _reference(message, _field(message, table, 2))
    if kind == _DICTIONARY_BATCH:
      header = _reference(message, _field(message, header, 1))
    return bool(_field(message, header, 3))
  except (struct.error, IndexError):
    raise ValueError("a damaged message") from None


def _field(data: memoryview, table: int, number: int) -> int:
  """The offset of a field of a flatbuffer's table; 0 when it is absent."""
  slots = table - struct.unpack_from("<i", data, table)[0]
  at = 4 + 2 * number
  if slots < 0 or at >= struct.unpack_from("<H", data, slots)[0]:
    return 0
  offset = struct.unpack_from("<H", data, slots + at)[0]
  return table + offset if offset else 0


def _reference(data: memoryview, at: int) -> int:
  return at + struct.unpack_from("<I", data, at)[0]


def _num_values(pyarrow: Any, array: Any) -> int:
  """How many Python values an array becomes; a long list of nulls takes no space in the file."""
  types = pyarrow.types
  if isinstance(array.type, pyarrow.BaseExtensionType):
    return _num_values(pyarrow, array.storage)
  if types.is_struct(array.type):
    return len(array) + sum(_num_values(pyarrow, part) for part in array.flatten())
  if types.is_map(array.type):
    return len(array) + _num_values(pyarrow, array.keys) + _num_values(pyarrow, array.items)
  lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
  if any(is_list(array.type) for is_list in lists):
    return len(array) + _num_values(pyarrow, array.flatten())
  return len(array)


def _check_type(types: Any, kind: Any, where: str) -> None:
  """ConfigError of types that repeat values by reference, so that a row can expand to gigabytes."""
  repeating = (
      types.is_dictionary, types.is_run_end_encoded, types.is_union, types.is_list_view,
      types.is_large_list_view, types.is_string_view, types.is_binary_view,
  )  # fmt: skip
  if any(is_kind(kind) for is_kind in repeating):
    raise errors.ConfigError(
      f"{where} is of the type {str(kind)[:100]}, which is not read. Cast it to plain texts,"
      f" numbers or lists, and save it again: {_SAVE}."
    )
  if hasattr(kind, "storage_type"):  # Of an extension.
    _check_type(types, kind.storage_type, where)
  for i in range(kind.num_fields):
    _check_type(types, kind.field(i).type, where)


def _features(folder: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  """{column: its description, of a list that of its values}; {} without a description."""
  path = folder / "dataset_info.json"
  features = files.read_json(path).get("features") if path.is_file() else {}
  return dict(_described(features)) if isinstance(features, Mapping) else {}


def _described(
  features: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
  for name, feature in features.items():
    if isinstance(feature, list) and len(feature) == 1:  # A list of records, or of values.
      feature = {"_type": "List", "feature": feature[0]}
    feature = feature if isinstance(feature, Mapping) else {}
    kind, inner = feature.get("_type"), feature.get("feature")
    fields = feature if kind is None else inner
    if isinstance(fields, Mapping) and fields and "_type" not in fields:  # A record, or of records.
      if kind in _LISTS:  # Stored as a list of records; a Sequence as a list for each field.
        yield above + name, {}
      yield from _described(fields, f"{above}{name}/")
    else:
      while isinstance(feature.get("feature"), Mapping):
        feature = feature["feature"]
      yield above + name, feature


def _is_plain(name: Any) -> bool:
  """Whether it is a name in a folder, not a path."""
  return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


_PART = re.compile(r"\s*([\w./-]*?)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*")


def _parts(text: str) -> list[tuple[str, str | None, str | None]]:
  """(split, start, stop) of each part of an expression; '' is the split without a name."""
  parts = []
  for part in text.split("+"):
    match = _PART.fullmatch(part)
    if not match:
      raise errors.ConfigError(
        f"split={text!r}: {part!r} is no part of a split; write 'train', 'train[:90%]',"
        " 'train[-500:]', or several joined by '+'."
      )
    parts.append((match[1], match[2], match[3]))
  return parts


def _bound(text: str | None, size: int) -> int | None:
  """The number of a row in a slice; percentages are rounded to the nearest row."""
  if text is None:
    return None
  return round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
