"""From an official download to a TFDS dataset in ArrayRecord, shard by shard, without TensorFlow.

A builder module declares its benchmark:

    DATASETS = (build.Dataset(name="okvqa", homepage=..., files=..., features=..., splits=...),)

and `write` builds it. Rows are in a fixed shuffled order, so that a slice such as 'train[:5%]' is a
random sample. A shard is written under a temporary name and then renamed; an interrupted build
keeps its finished shards.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import prng

from . import raw as raw_lib

Record = Mapping[str, Any]  # A row; a raw_lib.RawFile is replaced by the file's bytes.

_PLAN = "plan.json"
_SECONDS_BETWEEN_LINES = 5.0


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset: its rows and its download.

  Attributes:
    name: 'okvqa', or 'chartqa/human' where a module has several.
    homepage: the page with the download, for errors.
    files: the files in the raw folder, a line each, for `--help` and the docs.
    features: gives {column: tfds feature}.
    splits: gives {split: records} from the raw folder. Records are light: images are RawFiles.
    version: increases when the rows change.
  """

  name: str
  homepage: str
  files: tuple[str, ...]
  features: Callable[[], Mapping[str, Any]]
  splits: Callable[[raw_lib.Raw], Mapping[str, Sequence[Record]]]
  version: str = "1.0.0"


def write(
  dataset: Dataset,
  raw_dir: pathlib.Path,
  data_dir: pathlib.Path,
  *,
  rows_per_shard: int = 5000,
) -> pathlib.Path:
  """Writes `data_dir/<name>/<version>/`, which `sources.Tfds` reads; returns that folder.

  Continues an interrupted build. A finished dataset is left as it is.

  Raises:
    ConfigError: a file of the download is missing, with its page.
    DataError: a file has unexpected content.
  """
  folder = data_dir / dataset.name / dataset.version
  if (folder / "dataset_info.json").exists():
    print(f"{folder} is there already; delete it to build it anew.", file=sys.stderr)
    return folder
  splits = dataset.splits(raw_lib.Raw(raw_dir, dataset.homepage))
  for split, records in splits.items():
    if not records:
      raise errors.DataError(f"{dataset.name}: the split {split!r} has no rows in {raw_dir}.")
  partial = folder.with_name(folder.name + ".incomplete")
  partial.mkdir(parents=True, exist_ok=True)
  _check_plan(partial, dataset, splits, rows_per_shard)
  features = tfds.features.FeaturesDict(dict(dataset.features()))
  template = tfds.core.ShardedFileTemplate(
    data_dir=partial,
    dataset_name=dataset.name.rpartition("/")[2],
    filetype_suffix="array_record",
  )
  infos = []
  for split, records in splits.items():
    info = _write_split(dataset, split, records, features, template, rows_per_shard)
    infos.append(info)
  tfds.folder_dataset.write_metadata(
    data_dir=partial,
    features=features,
    split_infos=infos,
    filename_template=template,
    check_data=False,
    homepage=dataset.homepage,
    description=f"{dataset.name}, built by paligemma_jax.prepare",
  )
  (partial / _PLAN).unlink()
  partial.rename(folder)
  return folder


def _check_plan(
  partial: pathlib.Path,
  dataset: Dataset,
  splits: Mapping[str, Sequence[Record]],
  rows_per_shard: int,
) -> None:
  """ConfigError for shards of another download or of another number of rows."""
  plan = {"rows_per_shard": rows_per_shard, "features": sorted(dataset.features())}
  for split, records in splits.items():
    crc = 0
    for record in records:
      crc = zlib.crc32(repr(sorted(record.items())).encode("utf-8", "surrogatepass"), crc)
    plan[f"split {split}"] = f"{len(records)} rows {crc:08x}"
  path = partial / _PLAN
  if path.exists() and json.loads(path.read_text(encoding="utf-8")) != plan:
    raise errors.ConfigError(
      f"{partial} holds part of another build (other files or another --rows-per-shard). Delete"
      " that folder to start again."
    )
  atomic_io.write_atomically(path, json.dumps(plan, indent=1).encode())


def _write_split(
  dataset: Dataset,
  split: str,
  records: Sequence[Record],
  features: tfds.features.FeaturesDict,
  template: tfds.core.ShardedFileTemplate,
  rows_per_shard: int,
) -> tfds.core.SplitInfo:
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
  order = prng.generator(zlib.crc32(f"{dataset.name}/{split}".encode())).permutation(len(records))
  num_shards = -(-len(records) // rows_per_shard)
  template = template.replace(split=split)
  progress = _Progress(f"{dataset.name} {split}", len(records))
  lengths, num_bytes = [], 0
  for shard in range(num_shards):
    part = order[shard * rows_per_shard : (shard + 1) * rows_per_shard]
    path = pathlib.Path(template.sharded_filepath(shard_index=shard, num_shards=num_shards))
    if not path.exists():
      temporary = path.with_name(path.name + ".tmp")
      # Groups of one row: read by index, in any order.
      writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
      for i in part:
        writer.write(_serialized(records[int(i)], dataset, split, int(i), features, serializer))
        progress.step()
      writer.close()
      atomic_io.sync(temporary)
      temporary.rename(path)
    else:
      progress.step(len(part))
    lengths.append(len(part))
    num_bytes += path.stat().st_size
  progress.done()
  return tfds.core.SplitInfo(
    name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
  )


def _serialized(
  record: Record,
  dataset: Dataset,
  split: str,
  i: int,
  features: tfds.features.FeaturesDict,
  serializer: example_serializer.ExampleSerializer,
) -> bytes:
  row = raw_lib.read_all(record)
  try:
    return serializer.serialize_example(features.encode_example(row))
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise errors.DataError(
      f"{dataset.name}: row {i} of {split!r} does not fit its columns: {e}"
    ) from None


class _Progress:
  """Logs rows done, rate and time left from time to time."""

  def __init__(self, what: str, total: int):
    self._what, self._total, self._done = what, total, 0
    self._start = self._last = time.monotonic()

  def step(self, num: int = 1) -> None:
    self._done += num
    now = time.monotonic()
    if now - self._last >= _SECONDS_BETWEEN_LINES:
      self._last = now
      rate = self._done / (now - self._start)
      left = (self._total - self._done) / rate
      print(
        f"{self._what}: {self._done} of {self._total} rows, {rate:.0f} rows/s, {left:.0f} s left",
        file=sys.stderr,
      )

  def done(self) -> None:
    print(f"{self._what}: {self._total} rows", file=sys.stderr)
