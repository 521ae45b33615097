"""TFDS datasets by index."""

import pickle
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.miniatures import okvqa
from tools.prepare import __main__ as prepare
from tools.prepare import build


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  okvqa.make(folder / "raw")
  (dataset,) = prepare.datasets_of("okvqa")
  build.write(dataset, folder / "raw", folder / "data")
  return folder / "data"


def test_split_arithmetic_counts_as_tfds_does(data_dir):
  def ids(split):
    rows = sources.Tfds("okvqa", split, data_dir=str(data_dir)).open()
    return [rows[i]["question_id"] for i in range(len(rows))]

  train, val = ids("train"), ids("val")
  assert ids("train+val") == train + val
  assert ids("train[:2]") == train[:2]
  assert ids("train[-1:]+val[:50%]") == train[-1:] + val[:1]


def test_an_older_build_is_not_taken_for_the_version_that_a_page_wants(data_dir):
  wanted = sources.Tfds("okvqa", "val", data_dir=str(data_dir), version="9.0.0")
  with pytest.raises(errors.ConfigError, match=r"has 1\.1\.0 .* 9\.0\.0 is needed.*prepare okvqa"):
    wanted.open()
  assert len(wanted.replace(version="1.1.0").open()) == len(wanted.replace(version="").open()) == 2


@pytest.fixture(scope="module")
def numbers_dir(tmp_path_factory):
  """103 rows of train and 30 of val, in shards of 7."""
  folder = tmp_path_factory.mktemp("numbers")
  dataset = build.Dataset(
    name="numbers",
    homepage="https://example.org",
    files=(),
    features=lambda: {"i": tfds.features.Scalar(np.int64)},
    splits=lambda raw: {
      "train": [{"i": i} for i in range(103)],
      "val": [{"i": 1000 + i} for i in range(30)],
    },
  )
  build.write(dataset, folder, folder / "data", rows_per_shard=7)
  return folder / "data"


@pytest.mark.parametrize(
  ("split", "train", "val"),
  [
    ("train[:-5%]", slice(None, 98), slice(0)),
    ("train[-5%:]", slice(98, None), slice(0)),
    ("train[:5%]", slice(5), slice(0)),
    ("train[:-10%]", slice(93), slice(0)),
    ("train[-10%:]", slice(93, None), slice(0)),
    ("train+val", slice(None), slice(None)),
    ("train + val[20:]", slice(None), slice(20, None)),
    ("val[:2_0]", slice(0), slice(20)),
    ("train[:98%]+val", slice(101), slice(None)),
    ("train[-10:]", slice(93, None), slice(0)),
  ],
)
def test_parts_of_splits_are_those_of_tfds(numbers_dir, split, train, val):
  def numbers(split):
    rows = sources.Tfds("numbers", split, data_dir=str(numbers_dir)).open()
    return [rows[i]["i"] for i in range(len(rows))]

  assert numbers(split) == numbers("train")[train] + numbers("val")[val]


def test_parts_that_are_cut_apart_make_the_whole(numbers_dir):
  def numbers(split):
    rows = sources.Tfds("numbers", split, data_dir=str(numbers_dir)).open()
    return [rows[i]["i"] for i in range(len(rows))]

  assert sorted(numbers("train")) == list(range(103))
  for percent in (2, 5, 10, 98):
    assert numbers(f"train[:-{percent}%]+train[-{percent}%:]") == numbers("train")


def test_a_part_beyond_the_end_is_an_error(numbers_dir):
  with pytest.raises(errors.ConfigError, match="30 examples"):
    sources.Tfds("numbers", "train+val[20_000:]", data_dir=str(numbers_dir)).open()


def test_rows_survive_pickling_and_images_stay_encoded(data_dir):
  rows = sources.Tfds("okvqa", data_dir=str(data_dir)).open()
  again = pickle.loads(pickle.dumps(rows))
  assert again[0] == rows[0] and again.fingerprint() == rows.fingerprint()
  assert rows[0]["image"][:2] == b"\xff\xd8" and isinstance(rows[0]["question"], str)


def test_a_missing_dataset_says_how_to_build_it(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"paligemma_jax\.prepare okvqa"):
    sources.Tfds("okvqa", data_dir=str(tmp_path)).open()
  assert sources.Tfds("okvqa", data_dir=str(tmp_path)).makes() == ()


def test_an_unknown_split_names_those_that_are_there(data_dir):
  with pytest.raises(errors.ConfigError, match="train, val"):
    sources.Tfds("okvqa", "test", data_dir=str(data_dir)).open()


def test_the_environment_names_the_folder(data_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  assert len(sources.Tfds("okvqa", "val").open()) == 2


def test_a_description_makes_no_module_run(numbers_dir, tmp_path, monkeypatch):
  folder = tmp_path / "data"
  shutil.copytree(numbers_dir, folder)
  (tmp_path / "sent.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
  monkeypatch.syspath_prepend(tmp_path)
  path = next(folder.rglob("features.json"))
  content = path.read_text()
  assert "tensorflow_datasets.core.features" in content
  for spelling in ("pythonClassName", "python_class_name"):
    changed = re.sub(r'"pythonClassName": "[^"]*"', f'"{spelling}": "sent.X"', content)
    path.write_text(changed)
    with pytest.raises(errors.ConfigError, match=r"names the class 'sent\.X'"):
      sources.Tfds("numbers", data_dir=str(folder)).open()
  assert not (tmp_path / "sent.py.ran").exists()


def test_class_numbers_become_names_also_in_nests(tmp_path):
  labels = tfds.features.ClassLabel(names=["cat", "dog", "cow"])
  dataset = build.Dataset(
    name="classes",
    homepage="https://example.org",
    files=(),
    features=lambda: {
      "label": labels,
      "objects": tfds.features.Sequence({"n": tfds.features.Scalar(np.int64), "label": labels}),
    },
    splits=lambda raw: {
      "train": [
        {"label": 1, "objects": [{"n": 5, "label": 2}, {"n": 6, "label": 0}]},
        {"label": -1, "objects": []},
      ]
    },
  )
  build.write(dataset, tmp_path, tmp_path / "data")
  source = sources.Tfds("classes", data_dir=str(tmp_path / "data"))
  rows = pickle.loads(pickle.dumps(source.replace(names=("label", "objects/label")).open()))
  assert rows[0]["label"] == "dog" and rows[0]["objects/label"] == ["cow", "cat"]
  assert rows[1]["label"] is None and rows[1]["objects/label"] == []
  assert source.open()[0]["label"] == 1
  with pytest.raises(errors.ConfigError, match=r"'lable'.*'label'"):
    source.replace(names=("lable",)).open()
