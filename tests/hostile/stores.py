"""Saved data sets made by hand: Hugging Face's folders and TFDS."""

import pickle
import struct

import numpy as np

from tests.hostile.made import Case
from tests.hostile.made import cut
from tests.hostile.made import edit
from tests.hostile.made import more
from tests.hostile.made import outside
from tests.hostile.made import traps

_STATE = "train/state.json"
_INFO = "train/dataset_info.json"
_ARROW = "train/data-00000-of-00002.arrow"


class _Runs:
  """Whoever unpickles it makes a file."""

  def __reduce__(self):
    return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def _arrow(make, expected, *, other=None):
  """Another first file of the split; `make` gives an arrow table or batches from pyarrow."""

  def apply(path):
    import pyarrow as pa

    made = make(pa)
    batches = made if isinstance(made, list) else made.to_batches()
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with (
      pa.OSFile(str(path), "wb") as file,
      pa.ipc.new_stream(file, batches[0].schema, options=options) as stream,
    ):
      for batch in batches:
        stream.write_batch(batch)

  return Case(_ARROW, apply, expected)


def _one(make, expected):
  """A column that is one array of pyarrow."""
  return _arrow(lambda pa: pa.table({"x": make(pa)}), expected)


def _state(change, expected):
  return Case(_STATE, edit(change), expected)


def _files(*names):
  return lambda c: c.update(_data_files=[{"filename": n} for n in names])


def _info(change, expected):
  return Case(_INFO, edit(change), expected)


def _nested(pa, num):
  array = pa.array([1])
  for _ in range(num):
    array = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), array)
  return array


def _extension(pa):
  field = pa.field("x", pa.binary(), metadata={
      "ARROW:extension:name": "arrow.py_extension_type",
      "ARROW:extension:metadata": pickle.dumps(_Runs(), 0),
  })  # fmt: skip
  return pa.table([pa.array([b"a"])], schema=pa.schema([field]))


def _views(pa, values):
  num = len(values)
  return pa.ListViewArray.from_arrays(
    pa.array([0], pa.int32()), pa.array([num], pa.int32()), values
  )


def _of_nulls(pa):
  """One list of many nulls, which take no room in a file."""
  return pa.ListArray.from_arrays(pa.array([0, _MANY], pa.int32()), pa.nulls(_MANY))


def _patched(column, old, new, expected):
  """A column of which a pair of 32-bit numbers, as lengths and places are, was replaced."""

  def apply(path):
    _one(lambda pa: pa.array(*column(pa)), "").change(path)
    data = path.read_bytes()
    at = data.rindex(struct.pack("<2i", *old))
    path.write_bytes(data[:at] + struct.pack("<2i", *new) + data[at + 8 :])

  return Case(_ARROW, apply, expected)


def _list_patched(*new):
  return _patched(lambda pa: ([[1] * 777],), (0, 777), new, "ConfigError offset")


_MANY = 20_000_000

HF_DATASET = {
    **traps(_STATE, "ConfigError", missing="Cannot read", device="Cannot read"),
    **traps(_ARROW, "ConfigError", missing="missing", pipe="regular", device="regular"),
    **traps("dataset_dict.json", "ConfigError"),
    **traps(_INFO, "ConfigError", missing="value", pipe="value", folder="value", device="value",
            itself="value"),
    "state a list": Case(_STATE, b"[]", "ConfigError object"),
    "state in UTF-16": Case(_STATE, '{"a": 1}'.encode("utf-16"), "ConfigError UTF-8"),
    "state with BOM": Case(_STATE, lambda p: p.write_text(p.read_text(), "utf-8-sig"), "value"),
    "state deep": Case(_STATE, b"[" * 10**6, "ConfigError nested"),
    "state of 9 MB": Case(_STATE, b" " * (9 << 20), "ConfigError limit"),
    "a key twice": Case(_STATE, b'{"_data_files": [], "_data_files": []}', "ConfigError twice"),
    "a file above": _state(_files("../outside/mine"), "ConfigError names the file"),
    "a file absolute": _state(_files("/etc/passwd"), "ConfigError names the file"),
    "a file '..'": _state(_files(".."), "ConfigError names the file"),
    "a file with NUL": _state(lambda c: c.update(_data_files=[{"filename": "a\0"}]),
                              "ConfigError NUL"),
    "a file with half a pair": _state(_files("\ud800"), "ConfigError surrogate"),
    "a file's name a number": _state(_files(5), "ConfigError names the file"),
    "a file's name of 5000 letters": _state(_files("a" * 5000), "ConfigError"),
    "files a text": _state(lambda c: c.update(_data_files="a.arrow"), "ConfigError names the file"),
    "files of texts": _state(lambda c: c.update(_data_files=["a.arrow"]), "ConfigError names the"),
    "no files": _state(lambda c: c.update(_data_files=[]), "value"),
    "an index beside it": _state(lambda c: c.update(_indices_data_files=[{"filename": "i.arrow"}]),
                                 "ConfigError flatten_indices"),
    "split a list": _state(lambda c: c.update(_split=["train"]), "value"),
    "splits a text": Case("dataset_dict.json", b'{"splits": "train"}', "ConfigError no split"),
    "splits above": Case("dataset_dict.json", b'{"splits": ["..", "../outside", "val"]}',
                         "ConfigError no split"),
    "features a list": _info(lambda c: c.update(features=[1]), "value"),
    "features of numbers": _info(lambda c: c.update(features={"a": 5, "b": [1, 2]}), "value"),
    "features deep": Case(_INFO, b'{"features": ' + b'{"feature": ' * 900 + b"1" + b"}" * 901,
                          "ConfigError nested"),
    "class names of numbers": _info(
        lambda c: [f.update(names=[1, 2]) for f in c["features"].values() if "names" in f] and c,
        "value",
    ),
    "not Arrow": Case(_ARROW, b"PAR1" + bytes(999), "ConfigError no Arrow file"),
    "a pickle": Case(_ARROW, pickle.dumps(_Runs()), "ConfigError no Arrow file"),
    "cut": Case(_ARROW, cut, "ConfigError"),
    "more behind it": Case(_ARROW, more(b"x" * 999), "value"),
    "a link outside": Case(_ARROW, outside, "ConfigError no Arrow file"),
    "a message of 2 GB": Case(_ARROW, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(99),
                              "ConfigError no Arrow file"),
    "a message of -1": Case(_ARROW, b"\xff" * 99, "ConfigError no Arrow file"),
    "the file format, not the stream": Case(
        _ARROW, lambda path: _write_file(path), "ConfigError no Arrow file"
    ),
    "compressed": Case(_ARROW, lambda path: _write_packed(path), "ConfigError compressed"),
    "other columns than the split's": _arrow(lambda pa: pa.table({"y": [1]}), "value"),
    "a pickled type": _arrow(_extension, "value"),
    "a list of 20 million nulls": _one(lambda pa: _of_nulls(pa), "DataError values"),
    "a view of 20 million nulls": _one(
        lambda pa: _views(pa, pa.nulls(_MANY)), "ConfigError not read"
    ),
    "a fixed list of 20 million nulls": _one(
        lambda pa: pa.FixedSizeListArray.from_arrays(pa.nulls(_MANY), _MANY), "DataError values"
    ),
    "a map of 20 million nulls": _one(
        lambda pa: pa.MapArray.from_arrays(
            pa.array([0, _MANY // 10], pa.int32()), pa.array(np.zeros(_MANY // 10, np.int8)),
            pa.nulls(_MANY // 10)), "DataError values",
    ),
    "a union with 20 million nulls": _one(
        lambda pa: pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [_of_nulls(pa)]),
        "ConfigError not read",
    ),
    "a dictionary with 20 million nulls": _one(
        lambda pa: pa.DictionaryArray.from_arrays(pa.array([0]), _of_nulls(pa)),
        "ConfigError not read",
    ),
    "run ends with 20 million nulls": _one(
        lambda pa: pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()),
                                                     _of_nulls(pa)), "ConfigError not read",
    ),
    "a tensor of 20 million": _one(
        lambda pa: pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int8(), [_MANY]), pa.FixedSizeListArray.from_arrays(
                pa.array(np.zeros(_MANY, np.int8)), _MANY)), "DataError",
    ),
    "structs with 20 million nulls": _one(
        lambda pa: pa.StructArray.from_arrays([_of_nulls(pa)], ["a"]), "DataError values",
    ),
    "a text of 100 MB": _one(lambda pa: pa.array(["x" * (100 << 20)]), "DataError bytes"),
    "2 ** 62 rows, thrice": _arrow(
        lambda pa: [pa.record_batch({"x": pa.Array.from_buffers(pa.null(), 1 << 62, [None])})] * 3,
        "ConfigError rows",
    ),
    "no rows": _arrow(lambda pa: [pa.record_batch({"x": pa.array([], pa.int64())})], "value"),
    "50 levels": _one(lambda pa: _nested(pa, 50), "value"),
    "offsets beyond the end": _list_patched(0, 99_999),
    "offsets that fall": _list_patched(777, 0),
    "offsets negative": _list_patched(-5, 2),
    "a text beyond the end": _patched(lambda pa: (["x" * 777],), (0, 777), (0, 10**9),
                                       "ConfigError offset"),
    "text that is no UTF-8": _one(
        lambda pa: pa.Array.from_buffers(pa.utf8(), 1, [None, pa.py_buffer(
            struct.pack("<2i", 0, 2)), pa.py_buffer(b"\xff\xfe")]), "DataError"),
    "an index beyond the dictionary": _one(
        lambda pa: pa.DictionaryArray.from_arrays(pa.array([7]), pa.array(["a"]), safe=False),
        "DataError",
    ),
    "a date beyond years": _one(lambda pa: pa.array([2**62], pa.timestamp("s")), "DataError"),
    "a day beyond years": _one(lambda pa: pa.array([2**31 - 1], pa.date32()), "DataError"),
    "a span beyond days": _one(lambda pa: pa.array([2**62], pa.duration("s")), "DataError"),
    "a time zone that is a path": _one(
        lambda pa: pa.array([0], pa.timestamp("s", tz="../../etc/passwd")), "DataError"
    ),
    "a time zone of NULs": _one(
        lambda pa: pa.array([0], pa.timestamp("s", tz="a\0b")), "DataError"
    ),
    "columns of one name": _arrow(
        lambda pa: pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]),
        "ConfigError two columns",
    ),
    "a column without a name": _arrow(lambda pa: pa.table({"": [1]}), "value"),
    "an image above": _arrow(lambda pa: pa.table({"image": [{"bytes": None,
                             "path": "../outside/mine"}]}), "DataError '..'"),
    "an image absolute": _arrow(lambda pa: pa.table({"image": [{"bytes": None,
                                "path": "/etc/passwd"}]}), "DataError relative"),
    "an image's path a number": _arrow(lambda pa: pa.table({"image": [{"bytes": None, "path": 5}]}),
                                       "DataError path of a file"),
}  # fmt: skip


def _write_file(path):
  import pyarrow as pa

  table = pa.table({"x": [1]})
  with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
    writer.write_table(table)


def _write_packed(path):
  import pyarrow as pa

  table = pa.table({"x": np.zeros(10**6)})
  options = pa.ipc.IpcWriteOptions(compression="zstd")
  with (
    pa.OSFile(str(path), "wb") as file,
    pa.ipc.new_stream(file, table.schema, options=options) as writer,
  ):
    writer.write_table(table)


_FEW = "few/1.0.0/"
_FEATURES, _ABOUT = f"{_FEW}features.json", f"{_FEW}dataset_info.json"
_RECORDS = f"{_FEW}few-train.array_record-00000-of-00001"
_CORE = "tensorflow_datasets.core.features."


def _about(change, expected):
  return Case(_ABOUT, edit(change), expected)


def _split(**values):
  return lambda c: c["splits"][0].update(values)


def _feature(name, kind, **values):
  """Another description of a column."""

  def change(content):
    content["featuresDict"]["features"][name] = {"pythonClassName": kind, **values}

  return edit(change)


def _as(expected, kind, name="text", **values):
  return Case(_FEATURES, _feature(name, kind, **values), expected)


def _records(records, expected, options="group_size:1"):
  def apply(path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
      writer.write(record)
    writer.close()

  return Case(_RECORDS, apply, expected)


TFDS = {
    **traps(_ABOUT, "ConfigError", missing="no dataset", pipe="no dataset", folder="no dataset",
            device="no dataset", itself="no dataset"),
    **traps(_FEATURES, "ConfigError", pipe="regular", device="regular"),
    **traps(_RECORDS, "ConfigError", missing="no ArrayRecord", pipe="regular", device="regular",
            empty="DataError", blank="DataError", folder="DataError cannot be read"),
    "a class of the sender": _as("ConfigError names the class", "sent.X"),
    "a class of the system": _as("ConfigError names the class", "os.system"),
    "a class beside ours": _as("ConfigError names the class", "tensorflow_datasets.core.features"),
    "a class beside ours, by name": _as("ConfigError names", "tensorflow_datasets.scripts.cli.x"),
    "a class that is none": _as("ConfigError", f"{_CORE}feature.np"),
    "a class that is not there": _as("ConfigError", f"{_CORE}nonesuch.X"),
    "a class that is a number": Case(_FEATURES, _feature("text", 5), "ConfigError"),
    "another kind than stored": _as(
        "value", f"{_CORE}scalar.Scalar", tensor={"dtype": "int64", "shape": {}}
    ),
    "a tensor of 2 ** 40": _as(
        "DataError", f"{_CORE}tensor_feature.Tensor",
        tensor={"dtype": "uint8", "shape": {"dimensions": [str(2**40)]}},
    ),
    "a tensor of -5": _as("ConfigError", f"{_CORE}tensor_feature.Tensor",
                          tensor={"dtype": "uint8", "shape": {"dimensions": ["-5"]}}),
    "a tensor of objects": _as("value", f"{_CORE}tensor_feature.Tensor",
                               tensor={"dtype": "object", "shape": {}}),
    "a tensor of an unknown type": _as("ConfigError", f"{_CORE}tensor_feature.Tensor",
                                       tensor={"dtype": "sent.X", "shape": {}}),
    "60 million classes": _as("ConfigError classes", f"{_CORE}class_label_feature.ClassLabel",
                              classLabel={"numClasses": "60000000"}),
    "-1 classes": _as("ConfigError classes", f"{_CORE}class_label_feature.ClassLabel",
                      classLabel={"numClasses": "-1"}),
    "a column that is not stored": _as("value", f"{_CORE}text_feature.Text", name="more",
                                       text={}),
    "a column above": _as("value", f"{_CORE}text_feature.Text", name="../x", text={}),
    "features a list": Case(_FEATURES, b"[]", "ConfigError object"),
    "features of no kind": Case(_FEATURES, b"{}", "ConfigError"),
    "features deep": Case(_FEATURES, b'{"sequence":' * 900 + b"1" + b"}" * 900, "ConfigError nest"),
    "features with NaN": Case(_FEATURES, b'{"a": NaN}', "ConfigError NaN"),
    "features in UTF-16": Case(_FEATURES, '{"a": 1}'.encode("utf-16"), "ConfigError UTF-8"),
    "a sequence in twelve": Case(_FEATURES, edit(lambda c: _sequences(c, 12)), "DataError"),
    "about cut": Case(_ABOUT, cut, "ConfigError"),
    "about a list": Case(_ABOUT, b"[1]", "ConfigError object"),
    "about with unknown fields": _about(lambda c: c.update(nonesuch=1), "ConfigError no field"),
    "no splits": _about(lambda c: c.update(splits=[]), "ConfigError split"),
    "splits a dict": _about(lambda c: c.update(splits={"train": 3}), "ConfigError"),
    "a split twice": _about(lambda c: c["splits"].append(c["splits"][0]), "ConfigError twice"),
    "a split of other rows": _about(_split(shardLengths=["4"]), "DataError row 3"),
    "a split of 10 ** 18 rows": _about(_split(shardLengths=[str(10**18)]), "ConfigError shards"),
    "a split of -3 rows": _about(_split(shardLengths=["-3"]), "ConfigError shards"),
    "a split of many shards": _about(_split(shardLengths=["1"] * 300_000), "ConfigError shards"),
    "a split of no shards": _about(_split(shardLengths=[]), "ConfigError"),
    "files above": _about(
        _split(filepathTemplate="../../../outside/{SPLIT}"), "ConfigError plain names"
    ),
    "files absolute": _about(_split(filepathTemplate="/etc/passwd"), "ConfigError plain names"),
    "files by a format": _about(
        _split(filepathTemplate="{DATASET.__class__.__mro__}"), "ConfigError plain names"
    ),
    "another format": _about(lambda c: c.update(fileFormat="tfrecord"), "ConfigError"),
    "an unknown format": _about(lambda c: c.update(fileFormat="sent"), "ConfigError"),
    "another name": _about(lambda c: c.update(name="../outside"), "ConfigError letters"),
    "a split of another folder": _about(_split(name="../outside"), "ConfigError letters"),
    "a module": _about(lambda c: c.update(moduleName="sent"), "value"),
    "a version that is none": _about(lambda c: c.update(version="x"), "ConfigError version"),
    "records cut": Case(_RECORDS, cut, "DataError"),
    "records of NULs": Case(_RECORDS, bytes(131_072), "DataError"),
    "records of another kind": Case(_RECORDS, b"PK\3\4" + bytes(9999), "DataError"),
    "no record": _records([], "DataError"),
    "records of nothing": _records([b""] * 3, "DataError"),
    "records of noise": _records([b"\xff" * 99] * 3, "DataError cannot be read"),
    "records of 60 MB in little": _records([bytes(60 << 20)] * 3, "DataError", "zstd"),
    "a link outside": Case(_RECORDS, outside, "DataError"),
}  # fmt: skip


def _sequences(content, num):
  features = content["featuresDict"]["features"]
  inner = features["text"]
  for _ in range(num):
    inner = {
      "pythonClassName": f"{_CORE}sequence_feature.Sequence",
      "sequence": {"feature": inner, "length": "-1"},
    }
  features["text"] = inner


CASES = {"hf_dataset": HF_DATASET, "tfds": TFDS}
