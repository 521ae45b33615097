"""safetensors headers: nothing but an exact cover of the file is believed."""

import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax.checkpoint import reader
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from tests.checkpoint import makers


def _header(**fields):
  return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **fields}}


@pytest.mark.parametrize(
  ("header", "data", "says"),
  [
    (_header(dtype="F64"), bytes(16), "dtype 'F64'"),
    (_header(dtype=["F32"]), bytes(16), "dtype"),
    (_header(dtype="I8"), bytes(16), "dtype 'I8'"),
    (_header(shape=[2, 3]), bytes(16), "that is 24 bytes, but lies at"),
    (_header(shape=[10**7, 10**6]), bytes(16), "40000000000000 bytes"),
    (_header(shape=[-2, -2]), bytes(16), "damaged header"),
    (_header(shape=[True, 4]), bytes(16), "damaged header"),
    (_header(shape="22"), bytes(16), "damaged header"),
    (_header(data_offsets=[0]), bytes(16), "lies at"),
    (_header(data_offsets=[16, 32]), bytes(16), "beyond the end"),
    (_header(data_offsets=[-16, 0]), bytes(16), "damaged header"),
    (_header(data_offsets=[4, 20]), bytes(20), "follows a hole"),
    (_header(), bytes(20), "4 bytes at its end"),
    (_header(), bytes(12), "beyond the end"),
    ({**_header(), "b": _header()["a"]}, bytes(16), "overlaps"),
    ({"a": 3}, b"", "damaged header"),
    ({"a": {"dtype": "F32"}}, b"", "damaged header"),
    ([1], b"", "expected a JSON object"),
  ],
)
def test_a_hostile_safetensors_header_is_refused(tmp_path, header, data, says):
  path = makers.write_raw_safetensors(tmp_path / "x.safetensors", header, data)
  with pytest.raises(errors.CheckpointError, match=says):
    reader.safetensors_header(path)


@pytest.mark.parametrize(
  ("content", "says"),
  [
    (b"", "truncated"),
    (b"abc", "truncated"),
    (b"\xff" * 8, "truncated"),
    ((1 << 40).to_bytes(8, "little") + b"{}", "truncated"),
    ((2).to_bytes(8, "little") + b"{[", "no valid JSON"),
    ((4).to_bytes(8, "little") + b"\xff\xfe{}", "no valid JSON"),
    ((20_000).to_bytes(8, "little") + b"[" * 20_000, "no valid JSON"),
    ((15).to_bytes(8, "little") + b'{"a":1, "a": 2}', "'a' stands twice"),
    ((9000).to_bytes(8, "little") + b"[" + b"9" * 8998 + b"]", "no valid JSON"),
  ],
)
def test_a_damaged_safetensors_file_is_refused_in_little_memory(tmp_path, content, says):
  path = tmp_path / "x.safetensors"
  path.write_bytes(content)
  tracemalloc.start()
  with pytest.raises(errors.CheckpointError, match=says):
    reader.safetensors_header(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < (2 << 20)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(data=st.data())
def test_a_mutated_header_is_refused_or_covers_the_file(tmp_path_factory, data):
  tensors = {"a": np.ones((2, 3), np.float32), "b": np.ones((4,), np.float16)}
  path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
  content = bytearray(makers.write_safetensors(path, tensors).read_bytes())
  for _ in range(data.draw(st.integers(1, 4))):
    content[data.draw(st.integers(0, len(content) - 33))] = data.draw(st.integers(0, 255))
  path.write_bytes(content)
  try:
    found = reader.safetensors_header(path)
  except errors.CheckpointError:
    return
  assert sum(tensor.entry.num_bytes for tensor in found.values()) == 32
  for tensor in found.values():
    rows = reader.rows(tensor, 0, tensor.entry.shape[0]) if tensor.entry.shape else ()
    assert len(rows) == (tensor.entry.shape or [0])[0]


def test_of_a_file_in_a_bucket_only_the_rows_asked_for_are_fetched(tmp_path, gcs, monkeypatch):
  rows = np.arange(4 << 20, dtype=np.float32).reshape(4, -1)
  path = "gs://test-bucket/rows.safetensors"
  bucket.upload(makers.write_safetensors(tmp_path / "x", {"a": rows}), path)
  tensor = reader.safetensors_header(path)["a"]
  fetched, fetch = [], bucket._Object._fetch
  monkeypatch.setattr(
    bucket._Object, "_fetch", lambda self, *part: [fetched.append(part), fetch(self, *part)][1]
  )
  np.testing.assert_array_equal(reader.rows(tensor, 1, 3), rows[1:3])
  row_bytes = rows[0].nbytes
  assert fetched == [(tensor.start + row_bytes, tensor.start + 3 * row_bytes)]
