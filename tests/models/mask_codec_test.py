"""The mask codec in JAX is the one in NumPy, and training improves it."""

import itertools

import jax
import numpy as np
import pytest

from paligemma_jax import sources
from paligemma_jax.models import mask_codec as jax_codec
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from tests.regions import mask_codec_test


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
  encode = jax.jit(lambda w, masks: jax_codec.Codec(w).encode_together(masks))
  decode = jax.jit(lambda w, codes: jax_codec.Codec(w).decode_together(codes))
  np.testing.assert_array_equal(encode(w, masks), codes)
  decoded = codec.decode(codes)
  scale = np.abs(decoded).max()
  assert decoded.std() > 0.01 * scale > 0  # Or the comparison would say little.
  # Sums of up to 4608 terms in another order.
  np.testing.assert_allclose(decode(w, codes), decoded, rtol=0, atol=1e-4 * scale)


@pytest.mark.slow  # 25 s of processor time, nearly all of it to compile the step.
def test_training_learns_to_paint_what_it_is_shown():
  """A dozen steps on eight masks, with codes from the start; the shipped codec took 3 200."""
  recipe = mask_codec.CodecRecipe(
    source=sources.Masks(num_rows=8),
    held_out=sources.Masks("held_out", num_rows=4),
    num_codes=16,
    code_dim=8,
    encoder=(4, 4, 8, 8),
    decoder=(8, 8, 4, 4, 4),
    steps=12,
    plain_steps=0,  # So that one program is compiled, not two.
    batch_size=8,
    lr=1e-2,
    report_every=1,
  )
  rows = recipe.source.open()
  masks = np.stack([seg.to_square(rows[i]["mask"]) for i in range(len(rows))])
  reports = {}
  weights = jax_codec.train(recipe, itertools.repeat(masks), reports.__setitem__)
  assert {name: value.shape for name, value in weights.items()} == recipe.shapes()
  assert sorted(reports) == list(range(1, 13))
  assert reports[12]["loss"] < 0.95 * reports[1]["loss"] and reports[12]["codes"] > 1
  start = jax_codec.init(jax.random.key(recipe.seed), recipe.shapes())
  assert all((weights[name] != start[name]).any() for name in weights)
