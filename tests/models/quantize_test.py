"""Packed matrices: the published code book and scales, what comes back, what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from paligemma_jax.models import quantize

_SIZES = [(128, 96), (3, 72, 40), (2, 2, 64, 8)]
_BYTES = {"nf4": 0.5625, "int4": 0.5625, "int8": 1.0625}


def _matrix(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _blocks(w):
  """[…, N, 64, O], padded with zeros."""
  pad = -w.shape[-2] % 64
  w = np.concatenate([w, np.zeros((*w.shape[:-2], pad, w.shape[-1]), w.dtype)], axis=-2)
  return w.reshape(*w.shape[:-2], -1, 64, w.shape[-1])


def test_the_code_book_is_the_published_quantiles():
  """Of a normal distribution: 8 below 0, 7 above, equally likely, and 0 (arXiv:2305.14314)."""
  most = 0.9677083
  above = scipy.stats.norm.ppf(np.linspace(most, 0.5, 9)[:-1])
  below = -scipy.stats.norm.ppf(np.linspace(most, 0.5, 8)[:-1])
  levels = np.array(sorted([*above, 0.0, *below])) / above.max()
  np.testing.assert_allclose(quantize.NF4, levels, rtol=0, atol=2e-7)
  assert len(set(quantize.NF4.tolist())) == 16


@pytest.mark.parametrize("kind", quantize.KINDS)
@pytest.mark.parametrize("shape", _SIZES)
def test_numbers_come_back_as_the_nearest_level_times_the_scale(kind, shape):
  w = _matrix(shape)
  codes, scale = jax.jit(quantize.quantize, static_argnums=1)(w, kind)
  blocks = _blocks(w)
  most = np.abs(blocks).max(axis=-2)
  divisor = {"nf4": 1, "int4": 7, "int8": 127}[kind]
  # The largest absolute value itself for nf4; the division of the others may round differently.
  np.testing.assert_allclose(scale, most / divisor, rtol=0 if kind == "nf4" else 2e-7, atol=0)
  levels = quantize.NF4 if kind == "nf4" else np.arange(-divisor, divisor + 1) / divisor
  share = blocks / most[..., None, :]
  nearest = levels[np.abs(share[..., None] - levels).argmin(axis=-1)] * most[..., None, :]
  want = nearest.reshape(*w.shape[:-2], -1, w.shape[-1])[..., : w.shape[-2], :]
  found = quantize.dequantize(codes, scale, kind, size=w.shape[-2], dtype=jnp.float32)
  assert found.shape == w.shape
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_a_table_is_packed_along_its_rows(kind):
  table = _matrix((10, 128))
  codes, scale = quantize.quantize(table, kind, axis=-1)
  same, same_scale = quantize.quantize(table.T, kind)
  np.testing.assert_array_equal(codes, same.T)
  np.testing.assert_array_equal(scale, same_scale.T)
  rows = np.array([7, 0, 7])
  found = quantize.dequantize(codes[rows], scale[rows], kind, size=128, dtype=jnp.float32, axis=-1)
  whole = quantize.dequantize(codes, scale, kind, size=128, dtype=jnp.float32, axis=-1)
  np.testing.assert_array_equal(found, whole[rows])


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_bytes_per_parameter(kind):
  parts = jax.eval_shape(lambda w: quantize.quantize(w, kind), jnp.zeros((2048, 512)))
  num_bytes = sum(part.size * part.dtype.itemsize for part in parts)
  assert num_bytes / (2048 * 512) == _BYTES[kind]


def test_both_ways_to_unpack_nf4_agree():
  codes = jnp.arange(16, dtype=jnp.uint8)
  np.testing.assert_array_equal(quantize._select(codes), quantize.NF4)
  np.testing.assert_array_equal(quantize._look_up(codes), quantize.NF4)


def test_a_block_of_zeros_is_zeros():
  for kind in quantize.KINDS:
    codes, scale = quantize.quantize(jnp.zeros((64, 2)), kind)
    found = quantize.dequantize(codes, scale, kind, size=64, dtype=jnp.float32)
    np.testing.assert_array_equal(found, 0)
