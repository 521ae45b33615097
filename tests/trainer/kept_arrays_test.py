"""Kept arrays: what comes back, what is left out, what a damaged file costs."""

import os

import ml_dtypes
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.trainer import feature_cache


def _array(value, dtype=np.float32):
  return np.arange(12, dtype=np.float32).reshape(3, 4).astype(dtype) + np.asarray(value, dtype)


def _folder(path, max_bytes=10**6, dtype="float32"):
  return feature_cache.Folder(path, (3, 4), dtype, max_bytes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_gives_back_the_bits_also_to_the_next_run(tmp_path, dtype):
  numpy_dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
  store = _folder(tmp_path / "kept", dtype=dtype)
  assert store.get("aa1") is None
  assert store.put("aa1", _array(0.1, numpy_dtype)) and store.put("bb2", _array(3, numpy_dtype))
  for again in (store, _folder(tmp_path / "kept", dtype=dtype)):
    found = again.get("aa1")
    assert found.dtype == numpy_dtype
    assert found.tobytes() == _array(0.1, numpy_dtype).tobytes()
    assert again.get("bb2").tobytes() == _array(3, numpy_dtype).tobytes()
    assert again.num_broken == 0


def _damage(data, how):
  if how == "a bit":
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
  if how == "cut":
    return data[:-1]
  if how == "longer":
    return data + b"\0"
  if how == "another shape":
    return data.replace(b"[3, 4]", b"[4, 3]")
  assert how == "no head"
  return b"x" * 5000


@pytest.mark.parametrize("how", ["a bit", "cut", "longer", "another shape", "no head"])
def test_a_damaged_file_is_counted_left_out_and_written_anew(tmp_path, how):
  store = _folder(tmp_path)
  store.put("aa1", _array(1))
  (file,) = (f for f in tmp_path.rglob("*") if f.is_file())
  file.write_bytes(_damage(file.read_bytes(), how))
  assert store.get("aa1") is None and store.num_broken == 1
  assert store.put("aa1", _array(1))
  np.testing.assert_array_equal(store.get("aa1"), _array(1))


@pytest.mark.parametrize(
  "make", [lambda path: feature_cache.Memory(100), lambda p: _folder(p, 250)]
)
def test_what_comes_when_it_is_full_is_not_kept(tmp_path, make):
  store = make(tmp_path)
  put = [store.put(f"aa{i}", _array(i)) for i in range(4)]
  assert put[0] and not put[3]
  assert store.num_bytes <= store.max_bytes
  for i, kept in enumerate(put):
    assert (store.get(f"aa{i}") is not None) == kept


def test_the_bytes_of_earlier_runs_count(tmp_path):
  _folder(tmp_path).put("aa1", _array(1))
  store = _folder(tmp_path, max_bytes=150)
  assert store.num_bytes > 48
  assert not store.put("aa2", _array(2))


def test_a_disk_that_takes_nothing_is_named(tmp_path):
  store = _folder(tmp_path)
  (tmp_path / "aa").write_text("")
  assert not store.put("aa1", _array(1))
  assert "Not a directory" in store.limit() and store.num_bytes == 0
  assert store.get("aa1") is None and store.num_broken == 1


def test_memory_does_not_see_later_changes():
  store, array = feature_cache.Memory(1000), _array(0)
  store.put("aa1", array)
  array += 1
  np.testing.assert_array_equal(store.get("aa1"), _array(0))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.WorkdirError, match=r"cache_image_features.*file"):
    _folder(tmp_path / "file" / "kept")


def test_old_partial_files_of_ours_go_and_nothing_of_others(tmp_path):
  outside = tmp_path / "outside"
  kept = tmp_path / "kept"
  (kept / "aa").mkdir(parents=True)
  outside.mkdir()
  (kept / "link").symlink_to(outside)
  files = [kept / "aa" / ".aa1.partial", kept / "aa" / "mine.partial", outside / ".aa1.partial"]
  for file in files:
    file.write_bytes(b"0123456789")
    os.utime(file, (0, 0))
  assert _folder(kept).num_bytes == 10
  assert [file.exists() for file in files] == [False, True, True]
