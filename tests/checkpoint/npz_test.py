"""big_vision npz files: every honest one is read to the bit, every hostile one is refused.

An npz keeps what its names cannot say in a file beside it, and says so where there is none.
"""

import dataclasses
import tracemalloc
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import param_table
from tests import golden_files
from tests.checkpoint import hostile_npz
from tests.checkpoint import makers

_LEAF = "llm/layers/mlp/linear"


@pytest.mark.parametrize("name", ["tiny", "tiny2", "tinymha", "e2e", "tiny.bf16", "tiny.f16"])
def test_a_file_of_the_reference_is_read_to_the_bit(name):
  path = golden_files.path(f"bv/{name}.npz")
  weights = npz.open_npz(path)
  with np.load(path) as target:
    assert {param_table.PREFIX + n for n in weights.entries} == set(target.files)
    for leaf, entry in weights.entries.items():
      array = weights.read(leaf)
      expected = target[param_table.PREFIX + leaf]
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
  target = makers.params(makers.sizes(), dtype)
  path = makers.write_npz(tmp_path / "w.npz", target, prefix=prefix, deflate=deflate)
  weights = npz.open_npz(path)
  assert set(weights.entries) == set(target)
  assert all(weights.read(name).tobytes() == target[name].tobytes() for name in target)


def test_column_major_arrays_are_read(tmp_path):
  target = makers.params(makers.sizes())
  swapped = {**target, _LEAF: np.asfortranarray(target[_LEAF])}
  weights = npz.open_npz(makers.write_npz(tmp_path / "w.npz", swapped))
  assert np.array_equal(weights.read(_LEAF), target[_LEAF])


def test_blocks_are_whole_rows_in_order(tmp_path, monkeypatch):
  target = makers.params(makers.sizes())
  path = makers.write_npz(tmp_path / "w.npz", target, deflate=True)
  monkeypatch.setattr("paligemma_jax.checkpoint.reader.BLOCK_BYTES", 100)
  blocks = [b.copy() for b in npz.open_npz(path).blocks(param_table.INPUT_EMBEDDING)]
  assert [len(b) for b in blocks] == [3, 3, 3, 2]
  assert np.array_equal(np.concatenate(blocks), target[param_table.INPUT_EMBEDDING])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
  ("make", "says"),
  [
    (
      hostile_npz.wrong_shape,
      rf"shape of {_LEAF}: \[3, 10, 9\] in the file, \[3, 10, 8\] expected",
    ),
    (
      hostile_npz.transposed,
      r"\[3, 8, 10\] in the file, \[3, 10, 8\] expected \(transposed\?\)",
    ),
    (hostile_npz.missing, rf"1 missing.*\n.*missing {_LEAF} \[3, 10, 8\]"),
    (hostile_npz.surplus, r"surplus llm/layers/mlp/linaer \[3\]"),
    (hostile_npz.misspelt, rf"missing {_LEAF} .*\(near: llm/layers/mlp/linaer\)"),
    (hostile_npz.other_dtype, "dtype '<f8'"),
    (hostile_npz.big_endian, "dtype '>f4'"),
    (hostile_npz.objects, "objects are pickles"),
    (hostile_npz.raw_pickle, "no numpy array"),
    (hostile_npz.whole_pickle, "no intact npz"),
    (hostile_npz.not_an_array, "readme.txt.* is no array"),
    (hostile_npz.duplicate, "is in the file twice"),
    (hostile_npz.truncated, "no intact npz"),
    (hostile_npz.empty, "no intact npz"),
    (hostile_npz.no_arrays, "holds no arrays"),
    (hostile_npz.member_without_data, "960 bytes, but 0 bytes are declared"),
    (hostile_npz.huge_header, "40000000000000 bytes, but 0"),
    (hostile_npz.overflowing_shape, "has the shape"),
    (hostile_npz.negative_shape, "has the shape"),
    (hostile_npz.header_is_code, "damaged array header"),
    (hostile_npz.nested_header, "damaged array header"),
    (hostile_npz.bomb, "960 bytes, but 67109824 bytes are declared"),
    (hostile_npz.honest_bomb, "no weights deflate like that"),
    (hostile_npz.wrong_prefix, "'model/' in front"),
    (hostile_npz.mixed_prefix, "begin with 'params/' and 1 do not"),
    (hostile_npz.no_known_name, "none of its 2 names"),
    (hostile_npz.overlapping, "overlaps another member"),
    (hostile_npz.folder, "Is a directory"),
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
  target = makers.params(makers.sizes())
  path = makers.write_npz(tmp_path / "w.npz", target, deflate=deflate)
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    info = archive.getinfo(f"params/{_LEAF}.npy")
  data[info.header_offset + info.compress_size - 20] ^= 4
  path.write_bytes(data)
  with pytest.raises(errors.CheckpointError, match=rf"{_LEAF}.* is damaged"):
    npz.open_npz(path).read(_LEAF)


@pytest.mark.parametrize("deflate", [False, True])
def test_a_member_that_ends_early_is_noticed(tmp_path, deflate):
  path = makers.write_npz(tmp_path / "w.npz", makers.params(makers.sizes()), deflate=deflate)
  member = npz._members(path)[f"params/{_LEAF}"]
  entry = dataclasses.replace(member.entry, shape=(10**6, *member.entry.shape[1:]))
  member.info.file_size = member.header_bytes + entry.num_bytes
  with pytest.raises(errors.CheckpointError, match="ends early"):
    longer = dataclasses.replace(member, entry=entry)
    for block in npz._blocks(path, longer, reader.fill_alone):
      assert not block.size


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


_OTHERS = (
  {"final_softcap": 30.0},
  {"attn_softcap": 0.0},
  {"sliding_window": 4},
  {"query_scale": "width_per_head", "final_softcap": 7.5},
)


def _saved(tmp_path, **llm):
  model = makers.sizes(post_norms=True, num_kv_heads=2)
  model["llm"].update(llm)
  return export.save_npz(tmp_path / "x.npz", makers.params(model), sizes=model), model


@pytest.mark.parametrize("llm", _OTHERS, ids=str)
def test_other_sizes_come_back(tmp_path, caplog, llm):
  with caplog.at_level("WARNING"):
    path, model = _saved(tmp_path, **llm)
  assert "cannot hold" in caplog.text and "x.npz.sizes.json" in caplog.text
  assert npz.open_npz(path).sizes == model


def test_published_sizes_need_no_file_and_remove_one(tmp_path):
  path, _ = _saved(tmp_path, sliding_window=4)
  assert npz.beside(path).exists()
  path, model = _saved(tmp_path)
  assert not npz.beside(path).exists()
  assert npz.open_npz(path).sizes == model


def test_without_the_file_a_warning_says_what_is_taken(tmp_path, caplog):
  path, _ = _saved(tmp_path, final_softcap=30.0)
  npz.beside(path).unlink()
  with caplog.at_level("WARNING"):
    assert npz.open_npz(path).sizes["llm"]["final_softcap"] == 0.0
  assert "attention softcap (50.0), final softcap (0.0)" in caplog.text
  caplog.clear()
  released = path.rename(tmp_path / "paligemma2-3b-pt-224.b16.npz")  # There they are the truth.
  first = makers.write_npz(tmp_path / "first.npz", makers.params(makers.sizes()))
  with caplog.at_level("WARNING"):
    npz.open_npz(released)
    npz.open_npz(first)
  assert not caplog.text


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"llm": 3}', '{"llm": {"width": 3}}', '{"llm": {"final_softcap": "30"}}',
     '{"llm": {"sliding_window": 2.5}}', '{"llm": {"final_softcap": -1}}',
     '{"llm": {"query_scale": "odd"}}', '{"llm": {"final_softcap": true}}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
  path, _ = _saved(tmp_path, final_softcap=30.0)
  npz.beside(path).write_text(content)
  with pytest.raises(errors.CheckpointError, match=r"x\.npz\.sizes\.json"):
    npz.open_npz(path)
