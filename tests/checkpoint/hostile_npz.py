"""Makers of npz files that must be refused.

Each takes a folder to write into and a path that exists afterwards if anything in the file was run,
and returns the file's path.
"""

import io
import pickle
import zipfile

import numpy as np

from paligemma_jax.models import param_table
from tests.checkpoint import makers

LEAF = "llm/layers/mlp/linear"


class _Touch:
  """Unpickling it makes a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, "w")


def _npz_bytes(tmp_path, **kwargs):
  target = makers.params(makers.sizes())
  return makers.write_npz(tmp_path / "w.npz", target, **kwargs)


def _object_npy(touched):
  buffer = io.BytesIO()
  np.save(buffer, np.array([_Touch(touched)], dtype=object), allow_pickle=True)
  return buffer.getvalue()


def wrong_shape(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy(np.zeros((3, 10, 9), np.float32))})


def transposed(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy(np.zeros((3, 8, 10), np.float32))})


def missing(tmp_path, touched):
  target = makers.params(makers.sizes())
  del target[LEAF]
  return makers.write_npz(tmp_path / "w.npz", target)


def surplus(tmp_path, touched):
  extra = (("params/llm/layers/mlp/linaer.npy", makers.npy(np.zeros(3, np.float32))),)
  return _npz_bytes(tmp_path, extra=extra)


def misspelt(tmp_path, touched):
  target = makers.params(makers.sizes())
  target["llm/layers/mlp/linaer"] = target.pop(LEAF)
  return makers.write_npz(tmp_path / "w.npz", target)


def other_dtype(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy(np.zeros((3, 10, 8), np.float64))})


def big_endian(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy(np.zeros((3, 10, 8), ">f4"))})


def objects(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: _object_npy(touched)})


def raw_pickle(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: pickle.dumps(_Touch(touched))})


def whole_pickle(tmp_path, touched):
  path = tmp_path / "w.npz"
  path.write_bytes(pickle.dumps(_Touch(touched)))
  return path


def not_an_array(tmp_path, touched):
  return _npz_bytes(tmp_path, extra=(("readme.txt", b"hello"),))


def duplicate(tmp_path, touched):
  return _npz_bytes(tmp_path, extra=((f"params/{LEAF}.npy", makers.npy(np.ones(3, "f4"))),))


def truncated(tmp_path, touched):
  path = _npz_bytes(tmp_path)
  path.write_bytes(path.read_bytes()[:-2000])
  return path


def empty(tmp_path, touched):
  path = tmp_path / "w.npz"
  path.write_bytes(b"")
  return path


def no_arrays(tmp_path, touched):
  return makers.write_npz(tmp_path / "w.npz", {})


def member_without_data(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy_header("'<f4'", "(3, 10, 8)")})


def huge_header(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy_header("'<f4'", "(10, 1000, 1000000000)")})


def overflowing_shape(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy_header("'<f4'", f"({2**62}, 4)")})


def negative_shape(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy_header("'<f4'", "(-3, -10, 8)")})


def header_is_code(tmp_path, touched):
  code = makers.npy_header("'<f4'", f"open({str(touched)!r}, 'w')")
  return _npz_bytes(tmp_path, replace={LEAF: code})


def nested_header(tmp_path, touched):
  return _npz_bytes(tmp_path, replace={LEAF: makers.npy_header("'<f4'", "(" * 4000)})


def bomb(tmp_path, touched):
  zeros = makers.npy(np.zeros((3, 10, 8), np.float32)) + bytes(64 << 20)
  return _npz_bytes(tmp_path, deflate=True, replace={LEAF: zeros})


def honest_bomb(tmp_path, touched):
  """Sizes agree everywhere; the file is 1000 times smaller than what it holds."""
  model = makers.sizes()
  model = {**model, "llm": {**model["llm"], "vocab_size": 2 << 20}}
  target = {n: np.zeros(s, np.float32) for n, s in param_table.shapes(model).items()}
  return makers.write_npz(tmp_path / "w.npz", target, deflate=True)


def wrong_prefix(tmp_path, touched):
  return _npz_bytes(tmp_path, prefix="model/")


def mixed_prefix(tmp_path, touched):
  return _npz_bytes(tmp_path, extra=(("opt/count.npy", makers.npy(np.ones(1, np.float32))),))


def no_known_name(tmp_path, touched):
  path = tmp_path / "w.npz"
  np.savez(path, weight=np.zeros(3, np.float32), bias=np.zeros(3, np.float32))
  return path


def overlapping(tmp_path, touched):
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


def folder(tmp_path, touched):
  path = tmp_path / "w.npz"
  path.mkdir()
  return path
