"""Gradients taken through offsets are those of the weights, in half the bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants


def _config():
  sizes = {
    "img": {"width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2},
    "llm": {
      "width": 16,
      "depth": 3,
      "mlp_dim": 32,
      "num_heads": 2,
      "head_dim": 8,
      "vocab_size": 64,
    },
  }
  return variants.get("tiny", res=28, dtype="bfloat16", remat="full", overrides=sizes)


def test_every_matrix_of_a_layer_can_have_an_offset_and_nothing_else():
  for name in ("paligemma_3b", "paligemma2_28b"):
    shapes = paligemma.param_shapes(variants.get(name, res=224))
    layers = [n for n in shapes if n.startswith(("llm/layers/", "img/Transformer/encoderblock/"))]
    want = [n for n in layers if not n.endswith(("scale", "bias"))]
    assert linear.with_offsets(shapes) == want
    large = sum(np.prod(shapes[n].shape) for n in want)
    rest = sum(np.prod(shapes[n].shape) for n in layers) - large
    assert rest < large / 1000


def test_gradients_are_the_same_bits():
  model_config = _config()
  rng = np.random.default_rng(0)
  shapes = paligemma.param_shapes(model_config)
  params = {n: rng.normal(0, 0.3, s.shape).astype(np.float32) for n, s in shapes.items()}
  image = rng.uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32)
  text = rng.integers(0, 64, (2, 5)).astype(np.int32)

  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def gradients(trainable, frozen):
    def loss(trainable):
      whole = {**frozen, **trainable}
      x = paligemma.text_features(model_config, whole, image, text, np.ones_like(text))
      return jnp.sin(paligemma.logits(model_config, whole, x)).sum()

    return jax.grad(loss)(trainable)

  plain = gradients(params, {})
  names = linear.with_offsets(shapes)
  trainable = {n: p for n, p in params.items() if n not in names}
  trainable |= {
    f"{n}{linear.OFFSET}": jnp.zeros(params[n].shape, jnp.bfloat16)
    for n in (*names, param_table.INPUT_EMBEDDING)
  }
  through = gradients(trainable, {n: params[n] for n in names})
  for name in names:
    got = through[f"{name}{linear.OFFSET}"]
    assert got.dtype == jnp.bfloat16 and np.abs(plain[name]).max() > 0
    np.testing.assert_array_equal(got.astype(jnp.float32), plain[name], err_msg=name)
  # The table has two: where text begins it is read in float32, at the head in bfloat16.
  through[param_table.INPUT_EMBEDDING] += through[
    f"{param_table.INPUT_EMBEDDING}{linear.OFFSET}"
  ].astype(jnp.float32)
  for name in set(shapes) - set(names):
    np.testing.assert_array_equal(through[name], plain[name], err_msg=name)
