"""TFDS datasets by index."""

import pickle

import pytest

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


def test_rows_survive_pickling_and_images_stay_encoded(data_dir):
  rows = sources.Tfds("okvqa", data_dir=str(data_dir)).open()
  again = pickle.loads(pickle.dumps(rows))
  assert again[0] == rows[0] and again.fingerprint() == rows.fingerprint()
  assert rows[0]["image"][:2] == b"\xff\xd8" and isinstance(rows[0]["question"], str)


def test_a_missing_dataset_says_how_to_build_it(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"tools\.prepare okvqa"):
    sources.Tfds("okvqa", data_dir=str(tmp_path)).open()
  assert sources.Tfds("okvqa", data_dir=str(tmp_path)).makes() == ()


def test_an_unknown_split_names_those_that_are_there(data_dir):
  with pytest.raises(errors.ConfigError, match="train, val"):
    sources.Tfds("okvqa", "test", data_dir=str(data_dir)).open()


def test_the_environment_names_the_folder(data_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  assert len(sources.Tfds("okvqa", "val").open()) == 2
