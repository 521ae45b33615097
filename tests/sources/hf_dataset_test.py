"""Saved Hugging Face datasets: those of the library itself, and broken ones."""

import io
import json
import os
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import errors
from tests import golden_files

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def saved():
  """4 rows of train in two files and 2 of val, written by `datasets` itself."""
  return str(golden_files.path("hf_saved"))


@pytest.fixture
def copy(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "copy")
  return tmp_path / "copy"


def all_rows(source):
  rows = source.open()
  return [rows[i] for i in range(len(rows))]


def test_a_row_holds_what_the_library_stored(saved):
  source = sources.HfDataset(saved, "train", names=("label", "objects/category"))
  rows = all_rows(source)
  assert [row["text"] for row in rows] == [f"train row {i} ü" for i in range(4)]
  assert [row["label"] for row in rows] == ["cat", "dog", "cat", "dog"]
  assert [row["answers"] for row in rows] == [["a"] * i for i in range(4)]
  assert rows[3]["objects/category"] == ["x", "y", "x"]
  assert rows[2]["objects/bbox"] == [[0.0, 1.0, 2.0, 3.5]] * 2
  assert rows[0]["meta/id"] == 100 and rows[1]["meta/source"] is None
  assert set(source.makes()) == set(rows[0])
  for i, row in enumerate(rows):
    pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(row["image"]))), pixels)
    assert [type(view) for view in row["views"]] == [bytes, bytes]


def test_images_pass_the_ops(saved):
  row = sources.HfDataset(saved, "val").open()[1]
  row = pp.Resize(4)(pp.Decode()(row, None), None)
  assert row["image"].shape == (4, 4, 3)
  row = pp.Resize(4, key="views")(pp.Decode(key="views")(row, None), None)
  assert row["views"].shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train", ["t0", "t1", "t2", "t3"]),
    ("train+val", ["t0", "t1", "t2", "t3", "v0", "v1"]),
    ("train[:50%]", ["t0", "t1"]),
    ("train[-1:]+val[:1]", ["t3", "v0"]),
    ("train[1:3]", ["t1", "t2"]),
    ("val[50%:]+train[:-3]", ["v1", "t0"]),
    ("train[7:]", []),
  ],
)
def test_splits_can_be_cut_and_joined(saved, split, expected):
  rows = all_rows(sources.HfDataset(saved, split))
  assert [f"{row['text'][0]}{row['text'].split()[2]}" for row in rows] == expected


def test_a_folder_with_one_dataset_needs_no_split(saved):
  one = f"{saved}/train"
  assert len(sources.HfDataset(one).open()) == len(sources.HfDataset(one, "train").open()) == 4
  assert len(sources.HfDataset(one, "[:75%]").open()) == 3


def test_rows_survive_pickling_and_have_names(saved):
  rows = sources.HfDataset(saved, "val+train[2:]").open()
  again = pickle.loads(pickle.dumps(rows))
  assert again[3] == rows[3] and again.fingerprint() == rows.fingerprint()
  assert rows.where(3).endswith("hf_saved train") and rows.where(3).startswith("row 3 of ")
  with pytest.raises(IndexError):
    rows[4]


def test_the_fingerprint_tells_data_apart(saved, copy):
  of = lambda path, split: sources.HfDataset(str(path), split).open().fingerprint()  # noqa: E731
  assert of(saved, "train") == of(copy, "train")
  assert of(saved, "train") != of(saved, "val")
  state = json.loads((copy / "train/state.json").read_text())
  (copy / "train/state.json").write_text(json.dumps({**state, "_fingerprint": "other"}))
  assert of(saved, "train") != of(copy, "train")


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"split": ""}, "has no split ''; it has 'train', 'val'. Set split"),
    ({"split": "tain"}, "has no split 'tain'; it has 'train', 'val'. Did you mean 'train'"),
    ({"split": "train[1]"}, r"'train\[1\]' is no part of a split; write"),
    ({"split": "train", "names": ("labl",)}, "Did you mean 'label'"),
    ({"split": "train", "names": ("text",)}, "'text'"),
  ],
)
def test_a_wrong_field_is_named(saved, fields, message):
  with pytest.raises(errors.ConfigError, match=message):
    sources.HfDataset(saved, **fields).open()


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path):
  with pytest.raises(errors.ConfigError, match="save_to_disk"):
    sources.HfDataset(str(tmp_path)).open()
  assert sources.HfDataset(str(tmp_path)).makes() == ()


def test_a_missing_file_and_a_name_that_leaves_the_folder_are_errors(copy):
  (copy / "train/data-00001-of-00002.arrow").unlink()
  with pytest.raises(errors.ConfigError, match=r"00001-of-00002\.arrow is missing"):
    sources.HfDataset(str(copy), "train").open()
  state = json.loads((copy / "val/state.json").read_text())
  state["_data_files"] = [{"filename": "../train/data-00000-of-00002.arrow"}]
  (copy / "val/state.json").write_text(json.dumps(state))
  with pytest.raises(errors.ConfigError, match=r"names the file '\.\./train"):
    sources.HfDataset(str(copy), "val").open()


def test_an_index_beside_the_rows_is_refused_with_the_remedy(copy):
  state = json.loads((copy / "val/state.json").read_text())
  state["_indices_data_files"] = [{"filename": "indices.arrow"}]
  (copy / "val/state.json").write_text(json.dumps(state))
  with pytest.raises(errors.ConfigError, match="flatten_indices"):
    sources.HfDataset(str(copy), "val").open()


def test_a_broken_file_is_an_error_never_a_crash_and_never_a_guess(copy):
  path = copy / "val/data-00000-of-00001.arrow"
  data = path.read_bytes()
  whole = all_rows(sources.HfDataset(str(copy), "val"))
  rng = np.random.default_rng(0)
  outcomes = set()
  for cut in (0, 7, 100, len(data) // 2, len(data) - 200):
    path.write_bytes(data[:cut])
    with pytest.raises(errors.PaligemmaError):
      all_rows(sources.HfDataset(str(copy), "val"))
  for _ in range(60):
    broken = bytearray(data)
    broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(broken)
    try:
      outcomes.add("same" if all_rows(sources.HfDataset(str(copy), "val")) == whole else "other")
    except errors.PaligemmaError:
      outcomes.add("refused")
  # A bit of a text or a picture is data like any other: only Arrow's own structure can be checked.
  assert "refused" in outcomes


def test_a_path_in_place_of_a_picture_is_read_under_the_folder_given(tmp_path):
  (tmp_path / "pictures").mkdir()
  (tmp_path / "pictures/a.png").write_bytes(b"picture")
  image = pa.array(
    [{"bytes": None, "path": p} for p in ("a.png", "../state.json", None)],
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
  )
  batch = pa.record_batch({"image": image})
  with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as f:
    with pa.ipc.new_stream(f, batch.schema) as writer:
      writer.write_batch(batch)
  (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
  source = sources.HfDataset(str(tmp_path), images=str(tmp_path / "pictures"))
  rows = source.open()
  assert rows[0]["image"] == b"picture" and rows[2]["image"] is None
  with pytest.raises(errors.DataError, match=r"row 1 of .*without '\.\.'"):
    rows[1]
  with pytest.raises(errors.DataError, match="set `images` to the folder"):
    source.replace(images="").open()[0]
  assert source.makes() == ()  # No description beside it: only the data can tell.


@pytest.mark.parametrize(
    "file, change",
    [
        ("dataset_dict.json", {"splits": 5}), ("dataset_dict.json", {"splits": [["train"], None]}),
        ("train/state.json", {"_data_files": 5}), ("train/state.json", {"_data_files": [[1]]}),
        ("train/state.json", {"_data_files": {"a": 1}}), ("train/state.json", {"_split": ["a"]}),
        ("train/dataset_info.json", {"features": [1]}),
        ("train/dataset_info.json", {"features": True}),
        ("train/dataset_info.json", {"features": {"a": {"_type": "Sequence", "feature": 5}}}),
        ("train/dataset_info.json", {"features": {"a": {"names": 5}, "b": {"names": [1]}}}),
        ("train/dataset_info.json", {"features": {"a": {"feature": {"feature": []}}}}),
    ],
)  # fmt: skip
def test_descriptions_with_values_of_another_type_are_read_or_an_error(file, change, copy):
  path = copy / file
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  for source in (sources.HfDataset(str(copy), "train"), sources.HfDataset(str(copy / "train"))):
    try:
      source.makes()
      rows = source.open()
      rows[0]
    except (errors.ConfigError, errors.DataError):
      pass


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00002.arrow"])
def test_a_pipe_in_place_of_a_file_is_not_opened(file, copy):
  path = copy / "train" / file
  path.unlink()
  os.mkfifo(path)
  try:
    all_rows(sources.HfDataset(str(copy), "train"))
    assert file == "dataset_info.json"  # It is as if there were none.
  except errors.ConfigError as e:
    assert "egular file" in str(e) or "neither" in str(e)


def _write(path, table, **options):
  with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
    stream.write_table(table)


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_compressed_file_is_refused_before_it_is_inflated(dictionary, copy):
  column = pa.array([b"\0" * (1 << 20)] * 64)
  table = pa.table({"a": column.dictionary_encode() if dictionary else column})
  path = copy / "val" / "data-00000-of-00001.arrow"
  before = pa.total_allocated_bytes()
  for compression in ("zstd", "lz4"):
    _write(path, table, compression=compression)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(errors.ConfigError, match="is compressed"):
      sources.HfDataset(str(copy), "val").open()
  assert pa.total_allocated_bytes() - before < 1 << 20
  _write(path, table)
  assert len(sources.HfDataset(str(copy), "val").open()[0]["a"]) == 1 << 20


def test_a_row_of_endless_nulls_is_refused(copy):
  nulls = pa.ListArray.from_arrays(pa.array([0, 2**31 - 2], pa.int32()), pa.nulls(2**31 - 2))
  _write(copy / "val" / "data-00000-of-00001.arrow", pa.table({"a": nulls, "b": [1]}))
  rows = sources.HfDataset(str(copy), "val").open()
  with pytest.raises(errors.DataError, match="2147483648 values, the limit is 4000000"):
    rows[0]


def test_an_old_pyarrow_that_unpickles_is_refused(copy, monkeypatch):
  monkeypatch.setattr(pa, "__version__", "14.0.0")
  with pytest.raises(errors.ConfigError, match="pyarrow>=15"):
    sources.HfDataset(str(copy), "val").open()
