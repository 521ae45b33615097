"""Every builder, on a miniature of the official download: rows, order, missing files, resuming."""

import bz2
import importlib
import shutil

import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from tools.prepare import __main__ as prepare
from tools.prepare import build
from tools.prepare import raw as raw_lib

NAMES = prepare.module_names()


def miniature(name):
  if hasattr(importlib.import_module(f"tools.prepare.{name}"), "video"):
    pytest.importorskip("av", reason="videos are made and read with PyAV")
  return importlib.import_module(f"tests.miniatures.{name}")


def rows_of(dataset, split, data_dir):
  rows = sources.Tfds(dataset.name, split, data_dir=str(data_dir)).open()
  return [rows[i] for i in range(len(rows))]


@pytest.mark.parametrize("name", NAMES)
def test_a_builder_makes_the_rows_of_its_official_download(name, tmp_path):
  made = miniature(name)
  made.make(tmp_path / "raw")
  datasets = prepare.datasets_of(name)
  assert {d.name for d in datasets} == set(made.EXPECTED)
  for dataset in datasets:
    build.write(dataset, tmp_path / "raw", tmp_path / "data")
    source = sources.Tfds(dataset.name, data_dir=str(tmp_path / "data"))
    for split, expected in made.EXPECTED[dataset.name].items():
      rows = rows_of(dataset, split, tmp_path / "data")
      assert len(rows) == len(expected), (dataset.name, split)
      assert set(source.makes()) == set(rows[0])
      for wanted in expected:
        assert any(wanted.items() <= _seen(row, wanted).items() for row in rows), (split, wanted)


def _seen(row, wanted):
  """The columns that are told about, numbers rounded as they were stored."""
  return {k: _rounded(row[k]) for k in wanted}


def _rounded(value):
  if isinstance(value, list):
    return [_rounded(v) for v in value]
  if hasattr(value, "tolist"):
    return _rounded(value.tolist())
  return round(value, 5) if isinstance(value, float) else value


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_page_that_has_it(name, tmp_path):
  (tmp_path / "raw").mkdir()
  for dataset in prepare.datasets_of(name):
    with pytest.raises(errors.ConfigError) as caught:
      build.write(dataset, tmp_path / "raw", tmp_path / "data")
    assert dataset.homepage in str(caught.value)
    assert not (tmp_path / "data" / dataset.name).exists()


def test_an_interrupted_build_goes_on_and_equals_a_whole_one(tmp_path, monkeypatch):
  miniature("okvqa").make(tmp_path / "raw")
  (dataset,) = prepare.datasets_of("okvqa")
  whole = build.write(dataset, tmp_path / "raw", tmp_path / "whole", rows_per_shard=1)
  written = []

  def broken(record):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(record)
    return real(record)

  real = raw_lib.read_all
  monkeypatch.setattr(raw_lib, "read_all", broken)
  with pytest.raises(KeyboardInterrupt):
    build.write(dataset, tmp_path / "raw", tmp_path / "data", rows_per_shard=1)
  monkeypatch.setattr(raw_lib, "read_all", real)
  with pytest.raises(errors.ConfigError, match="another build"):
    build.write(dataset, tmp_path / "raw", tmp_path / "data", rows_per_shard=2)
  resumed = build.write(dataset, tmp_path / "raw", tmp_path / "data", rows_per_shard=1)
  names = sorted(p.name for p in whole.iterdir())
  assert names == sorted(p.name for p in resumed.iterdir())
  for split in ("train", "val"):
    both = [rows_of(dataset, split, tmp_path / d) for d in ("whole", "data")]
    assert both[0] == both[1]


def test_zip_files_need_not_be_unpacked(tmp_path):
  miniature("okvqa").make(tmp_path / "raw")
  (dataset,) = prepare.datasets_of("okvqa")
  build.write(dataset, tmp_path / "raw", tmp_path / "folders")
  for split in ("train2014", "val2014"):
    shutil.make_archive(tmp_path / "raw" / split, "zip", tmp_path / "raw", split)
    shutil.rmtree(tmp_path / "raw" / split)
  build.write(dataset, tmp_path / "raw", tmp_path / "zips")
  assert rows_of(dataset, "train", tmp_path / "zips") == (
    rows_of(dataset, "train", tmp_path / "folders")
  )


def test_a_name_that_leaves_the_raw_folder_is_refused(tmp_path):
  (tmp_path / "raw").mkdir()
  (tmp_path / "secret.txt").write_text("x")
  raw = raw_lib.Raw(tmp_path / "raw", "https://example.org")
  with pytest.raises(errors.DataError, match="outside"):
    raw.file("../secret.txt")


def test_lines_of_json_are_read_one_by_one_and_a_broken_one_is_named(tmp_path):
  (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(b'{"x": 1}\n\n{"x": \n'))
  (tmp_path / "b.jsonl.bz2").write_bytes(b"no archive")
  raw = raw_lib.Raw(tmp_path, "https://example.org")
  lines = raw.jsonl_lines("a.jsonl", "a.jsonl.bz2")
  assert next(lines) == {"x": 1}
  with pytest.raises(errors.DataError, match=r"a\.jsonl\.bz2:3 is not JSON"):
    next(lines)
  with pytest.raises(errors.DataError, match="Download it again"):
    list(raw.jsonl_lines("b.jsonl.bz2"))
