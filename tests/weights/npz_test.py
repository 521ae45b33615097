"""big_vision npz files: every honest one is read to the bit, every hostile one is refused."""

import dataclasses
import io
import pickle
import tracemalloc
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax.core import errors
from paligemma_jax.weights import names
from paligemma_jax.weights import npz
from tests import golden_files
from tests.weights import makers

_LEAF = "llm/layers/mlp/linear"


@pytest.mark.parametrize("name", ["tiny", "tiny2", "tinymha", "e2e", "tiny.bf16", "tiny.f16"])
def test_a_file_of_the_reference_is_read_to_the_bit(name):
  path = golden_files.path(f"bv/{name}.npz")
  weights = npz.open_npz(path)
  with np.load(path) as truth:
    assert {names.PREFIX + n for n in weights.entries} == set(truth.files)
    for leaf, entry in weights.entries.items():
      array = weights.read(leaf)
      expected = truth[names.PREFIX + leaf]
      assert array.shape == entry.shape == expected.shape
      assert array.dtype == entry.dtype
      assert array.tobytes() == expected.tobytes()


def test_bfloat16_comes_back_as_numbers_not_as_raw_bytes():
  path = golden_files.path("bv/tiny.bf16.npz")
  exact = npz.open_npz(golden_files.path("bv/tiny.npz")).read(_LEAF)
  assert np.array_equal(npz.open_npz(path).read(_LEAF), exact.astype(makers.BFLOAT16))


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("prefix", ["", "params/"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, makers.BFLOAT16])
def test_names_are_ours_with_and_without_prefix(tmp_path, dtype, prefix, deflate):
  truth = makers.params(makers.sizes(), dtype)
  path = makers.write_npz(tmp_path / "w.npz", truth, prefix=prefix, deflate=deflate)
  weights = npz.open_npz(path)
  assert set(weights.entries) == set(truth)
  assert all(weights.read(name).tobytes() == truth[name].tobytes() for name in truth)


def test_column_major_arrays_are_read(tmp_path):
  truth = makers.params(makers.sizes())
  swapped = {**truth, _LEAF: np.asfortranarray(truth[_LEAF])}
  weights = npz.open_npz(makers.write_npz(tmp_path / "w.npz", swapped))
  assert np.array_equal(weights.read(_LEAF), truth[_LEAF])


def test_blocks_are_whole_rows_in_order(tmp_path, monkeypatch):
  truth = makers.params(makers.sizes())
  path = makers.write_npz(tmp_path / "w.npz", truth, deflate=True)
  monkeypatch.setattr("paligemma_jax.weights.reader.BLOCK_BYTES", 100)
  blocks = [b.copy() for b in npz.open_npz(path).blocks(names.INPUT_EMBEDDING)]
  assert [len(b) for b in blocks] == [3, 3, 3, 2]
  assert np.array_equal(np.concatenate(blocks), truth[names.INPUT_EMBEDDING])


class _Touch:
  """Unpickling it makes a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, "w")


def _npz_bytes(tmp_path, **kwargs):
  truth = makers.params(makers.sizes())
  return makers.write_npz(tmp_path / "w.npz", truth, **kwargs)


def _object_npy(touched):
  buffer = io.BytesIO()
  np.save(buffer, np.array([_Touch(touched)], dtype=object), allow_pickle=True)
  return buffer.getvalue()


def _wrong_shape(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy(np.zeros((3, 10, 9), np.float32))})


def _transposed(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy(np.zeros((3, 8, 10), np.float32))})


def _missing(tmp_path, touched):
  truth = makers.params(makers.sizes())
  del truth[_LEAF]
  return makers.write_npz(tmp_path / "w.npz", truth)


def _surplus(tmp_path, touched):
  extra = (("params/llm/layers/mlp/linaer.npy", makers.npy(np.zeros(3, np.float32))),)
  return _npz_bytes(tmp_path, extra=extra)


def _misspelt(tmp_path, touched):
  truth = makers.params(makers.sizes())
  truth["llm/layers/mlp/linaer"] = truth.pop(_LEAF)
  return makers.write_npz(tmp_path / "w.npz", truth)


def _other_dtype(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy(np.zeros((3, 10, 8), np.float64))})


def _big_endian(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy(np.zeros((3, 10, 8), ">f4"))})


def _objects(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: _object_npy(touched)})


def _raw_pickle(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: pickle.dumps(_Touch(touched))})


def _whole_pickle(tmp_path, touched):
  path = tmp_path / "w.npz"
  path.write_bytes(pickle.dumps(_Touch(touched)))
  return path


def _not_an_array(tmp_path, touched):
  return _npz_bytes(tmp_path, extra=(("readme.txt", b"hello"),))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def _duplicate(tmp_path, touched):
  return _npz_bytes(tmp_path, extra=((f"params/{_LEAF}.npy", makers.npy(np.ones(3, "f4"))),))


def _truncated(tmp_path, touched):
  path = _npz_bytes(tmp_path)
  path.write_bytes(path.read_bytes()[:-2000])
  return path


def _empty(tmp_path, touched):
  path = tmp_path / "w.npz"
  path.write_bytes(b"")
  return path


def _no_arrays(tmp_path, touched):
  return makers.write_npz(tmp_path / "w.npz", {})


def _member_without_data(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy_header("'<f4'", "(3, 10, 8)")})


def _huge_header(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy_header("'<f4'", "(10, 1000, 1000000000)")})


def _overflowing_shape(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy_header("'<f4'", f"({2**62}, 4)")})


def _negative_shape(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy_header("'<f4'", "(-3, -10, 8)")})


def _header_is_code(tmp_path, touched):
  code = makers.npy_header("'<f4'", f"open({str(touched)!r}, 'w')")
  return _npz_bytes(tmp_path, replace={_LEAF: code})


def _nested_header(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={_LEAF: makers.npy_header("'<f4'", "(" * 4000)})


def _bomb(tmp_path, touched):
  zeros = makers.npy(np.zeros((3, 10, 8), np.float32)) + bytes(64 << 20)
  return _npz_bytes(tmp_path, deflate=True, replace={_LEAF: zeros})


def _honest_bomb(tmp_path, touched):
  """Sizes agree everywhere; the file is 1000 times smaller than what it holds."""
  model = makers.sizes()
  model = {**model, "llm": {**model["llm"], "vocab_size": 2 << 20}}
  truth = {n: np.zeros(s, np.float32) for n, s in names.shapes(model).items()}
  return makers.write_npz(tmp_path / "w.npz", truth, deflate=True)


def _wrong_prefix(tmp_path, touched):
  return _npz_bytes(tmp_path, prefix="model/")


def _mixed_prefix(tmp_path, touched):
  return _npz_bytes(tmp_path, extra=(("opt/count.npy", makers.npy(np.ones(1, np.float32))),))


def _no_known_name(tmp_path, touched):
  path = tmp_path / "w.npz"
  np.savez(path, weight=np.zeros(3, np.float32), bias=np.zeros(3, np.float32))
  return path


def _overlapping(tmp_path, touched):
  """Two equally shaped members that are the same bytes, as in bombs of overlapping files."""
  path = _npz_bytes(tmp_path)
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    first, second = (i for i in archive.infolist() if "LayerNorm_0" in i.filename)
  entry = data.rindex(second.filename.encode()) - 46
  assert data[entry : entry + 4] == b"PK\x01\x02"
  data[entry + 42 : entry + 46] = first.header_offset.to_bytes(4, "little")
  path.write_bytes(data)
  return path


def _folder(tmp_path, touched):
  path = tmp_path / "w.npz"
  path.mkdir()
  return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_wrong_shape, rf"shape of {_LEAF}: \[3, 10, 9\] in the file, \[3, 10, 8\] expected"),
        (_transposed, r"\[3, 8, 10\] in the file, \[3, 10, 8\] expected \(transposed\?\)"),
        (_missing, rf"1 missing.*\n.*missing {_LEAF} \[3, 10, 8\]"),
        (_surplus, r"surplus llm/layers/mlp/linaer \[3\]"),
        (_misspelt, rf"missing {_LEAF} .*\(near: llm/layers/mlp/linaer\)"),
        (_other_dtype, "dtype '<f8'"),
        (_big_endian, "dtype '>f4'"),
        (_objects, "objects are pickles"),
        (_raw_pickle, "no numpy array"),
        (_whole_pickle, "no intact npz"),
        (_not_an_array, "readme.txt.* is no array"),
        (_duplicate, "is in the file twice"),
        (_truncated, "no intact npz"),
        (_empty, "no intact npz"),
        (_no_arrays, "holds no arrays"),
        (_member_without_data, "960 bytes, but 0 bytes are declared"),
        (_huge_header, "40000000000000 bytes, but 0"),
        (_overflowing_shape, "has the shape"),
        (_negative_shape, "has the shape"),
        (_header_is_code, "damaged array header"),
        (_nested_header, "damaged array header"),
        (_bomb, "960 bytes, but 67109824 bytes are declared"),
        (_honest_bomb, "no weights deflate like that"),
        (_wrong_prefix, "'model/' in front"),
        (_mixed_prefix, "begin with 'params/' and 1 do not"),
        (_no_known_name, "none of its 2 names"),
        (_overlapping, "overlaps another member"),
        (_folder, "not a regular file"),
    ],
)
def test_a_hostile_file_is_refused_from_its_headers(tmp_path, make, says):
  touched = tmp_path / "touched"
  path = make(tmp_path, touched)
  tracemalloc.start()
  with pytest.raises(errors.CheckpointError, match=says) as caught:
    npz.open_npz(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert str(path) in str(caught.value)
  assert not touched.exists()
  assert peak < (2 << 20)


@pytest.mark.parametrize("deflate", [False, True])
def test_one_flipped_bit_in_the_data_is_noticed(tmp_path, deflate):
  truth = makers.params(makers.sizes())
  path = makers.write_npz(tmp_path / "w.npz", truth, deflate=deflate)
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    info = archive.getinfo(f"params/{_LEAF}.npy")
  data[info.header_offset + info.compress_size - 20] ^= 4
  path.write_bytes(data)
  weights = npz.open_npz(path)
  with pytest.raises(errors.CheckpointError, match=rf"{_LEAF}.*(checksum|damaged|read)"):
    weights.read(_LEAF)
  assert np.array_equal(weights.read("img/head/bias"), truth["img/head/bias"])


def test_a_member_that_ends_early_is_noticed(tmp_path):
  path = makers.write_npz(tmp_path / "w.npz", makers.params(makers.sizes()), deflate=True)
  members = npz._members(path)
  longer = dataclasses.replace(members[f"params/{_LEAF}"], num_bytes=10**9)
  with pytest.raises(errors.CheckpointError, match="bytes early"):
    with open(path, "rb") as file:
      assert all(len(chunk) < 10_000 for chunk in npz._chunks(file, longer, "w.npz"))


_TRUTH = makers.params(makers.sizes())


@pytest.fixture(scope="module", params=[False, True])
def honest(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("npz")
  path = makers.write_npz(folder / "w.npz", _TRUTH, deflate=request.param)
  return folder, path.read_bytes()


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(data=st.data())
def test_a_mutated_file_is_refused_or_read_right(honest, data):
  folder, original = honest
  mutated = bytearray(original)
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(mutated) - 1))
    # Headers of all members and the directory at the end are the places of interest.
    if data.draw(st.booleans()):
      at = max(0, len(mutated) - 1 - at % 4000)
    mutated[at] ^= data.draw(st.integers(1, 255))
  path = folder / "mutated.npz"
  path.write_bytes(mutated)
  try:
    weights = npz.open_npz(path)
    found = {name: weights.read(name) for name in weights.entries}
  except errors.CheckpointError:
    return
  assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in _TRUTH.items()}
