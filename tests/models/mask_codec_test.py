"""The mask codec in JAX is the one in NumPy."""

import jax
import numpy as np
import pytest

from paligemma_jax.core import mask_codec
from paligemma_jax.models import mask_codec as jax_codec
from tests.core import mask_codec_test


def _masks(num, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.random((num, 64, 64)) < rng.random((num, 1, 1))) * np.float32(2) - 1


@pytest.mark.parametrize("sizes", [mask_codec_test.SMALL, {}], ids=["small", "published"])
def test_jax_equals_numpy_on_random_weights_in_the_published_layout(sizes):
  w = mask_codec_test.weights(3, **sizes)
  if not sizes:  # Wide layers: keep what goes through them of order 1.
    w = {k: v * (0.05 if v.ndim > 2 and v.shape[1] > 8 else 1) for k, v in w.items()}
  codec, masks = mask_codec.MaskCodec(w), _masks(2)
  codes = codec.encode(masks)
  np.testing.assert_array_equal(jax.jit(jax_codec.encode)(w, masks), codes)
  decoded = codec.decode(codes)
  scale = np.abs(decoded).max()
  assert decoded.std() > 0.01 * scale > 0  # Or the comparison would say little.
  # Sums of up to 4608 terms in another order.
  np.testing.assert_allclose(
      jax.jit(jax_codec.decode)(w, codes), decoded, rtol=0, atol=1e-4 * scale
  )
