"""Weights that hold NaN or infinity are refused by name, whatever file they come from."""

import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import opening
from paligemma_jax.core import errors
from paligemma_jax.models import param_table
from tests import virtual_devices
from tests.checkpoint import makers

_DTYPES = (np.float32, np.float16, makers.BFLOAT16)
_BAD = ("llm/final_norm/scale", "img/embedding/kernel")


@pytest.mark.parametrize("dtype", _DTYPES)
def test_every_kind_of_bad_number_is_seen_wherever_it_stands(dtype, monkeypatch):
  monkeypatch.setattr(load, "_PIECE", 64)
  for value in (np.nan, -np.nan, np.inf, -np.inf):
    for place in (0, 63, 64, 500, 999):
      array = np.linspace(-3, 3, 1000).astype(dtype)
      array[place] = value
      target = np.empty_like(array)
      assert not load.is_finite(array) and not load.copy_finite(target, array)
      assert target.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", _DTYPES)
def test_the_largest_and_least_numbers_pass(dtype):
  info = ml_dtypes.finfo(dtype)
  ends = [info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, 0.0, -0.0]
  array = np.array(ends, dtype).reshape(-1, 1)
  target = np.empty(array.shape, np.float32)
  assert load.is_finite(array) and load.copy_finite(target, array)
  np.testing.assert_array_equal(target, array.astype(np.float32))
  assert load.is_finite(np.arange(9, dtype=np.int8)) and load.is_finite(np.zeros((0, 3), dtype))


def _bad_params(dtype=np.float32):
  model = makers.sizes()
  params = makers.params(model, dtype)
  params[_BAD[0]][3] = np.nan
  params[_BAD[1]].reshape(-1)[-1] = -np.inf
  return model, params


def _npz(path, model, params):
  export.save_npz(path / "a.npz", params)
  return path / "a.npz"


def _native(path, model, params):
  return export.save_native(path / "native", params, model)


def _hf(path, model, params):
  return makers.write_hf(
    path / "hf", makers.hf_tensors(params, model), makers.hf_config(model), num_shards=2
  )


def _run(path, model, params):
  return makers.write_run(path / "run", params)


@pytest.mark.parametrize("write", [_npz, _native, _hf, _run])
@pytest.mark.parametrize("dtype", _DTYPES)
def test_a_file_with_bad_numbers_is_refused_and_the_parameters_are_named(tmp_path, write, dtype):
  model, params = _bad_params(dtype)
  path = write(tmp_path, model, params)
  with pytest.raises(errors.CheckpointError, match=r"2 of \d+ parameters hold numbers") as caught:
    load.load_params(opening.open_weights(path), param_table.shapes(model), dtype=np.float32)
  assert all(name in str(caught.value) for name in (*_BAD, str(tmp_path)))


def test_so_it_is_when_parameters_are_cut_over_devices_or_packed(tmp_path):
  model, params = _bad_params()
  path = _npz(tmp_path, model, params)
  shapes = param_table.shapes(model)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  with pytest.raises(errors.CheckpointError, match="2 of"):
    load.load_params(
      opening.open_weights(path),
      shapes,
      dtype=np.float32,
      shardings=dict.fromkeys(shapes, place),
    )

  def repack(name, blocks):
    array = np.concatenate([block.copy() for block in blocks]) if name in _BAD else None
    return None if array is None else {name: array}

  with pytest.raises(errors.CheckpointError, match="2 of"):
    load.load_params(opening.open_weights(path), shapes, dtype=np.float32, repack=repack)


_SHARDED = """
import jax, numpy as np, sys
from paligemma_jax.core import errors
from paligemma_jax.checkpoint import load, opening
from paligemma_jax.checkpoint import opening
weights = opening.open_weights(sys.argv[1])
shapes = {n: e.shape for n, e in weights.entries.items()}
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
spec = jax.sharding.PartitionSpec
places = {n: jax.sharding.NamedSharding(mesh, spec("x") if s[0] % 2 == 0 else spec())
          for n, s in shapes.items()}
try:
  load.load_params(weights, shapes, dtype=np.float32, shardings=places)
except errors.CheckpointError as e:
  print("refused", e)
"""


def test_so_it_is_on_two_devices(tmp_path):
  model, params = _bad_params()
  done = subprocess.run(
    [sys.executable, "-c", _SHARDED, str(_npz(tmp_path, model, params))],
    env=virtual_devices.environment(2),
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert "refused" in done.stdout and all(name in done.stdout for name in _BAD), done.stderr
