"""On CPU the last layer runs for text alone: the numbers are those of all layers in one scan."""

import functools

import jax
import numpy as np
import pytest

from paligemma_jax.models import cpu
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.planning import program
from tests.models import random_params

_GEMMA_2 = {"llm.post_norms": True, "llm.attn_softcap": 20.0, "llm.final_softcap": 30.0}
_SMALL = {
  "img": {"depth": 1, "width": 32, "mlp_dim": 32, "num_heads": 2},
  "llm": {
    "depth": 3,
    "width": 32,
    "mlp_dim": 48,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
  },
}
_CASES = {
  "remat": {"remat": "full"},
  "rows": {"remat": "dots", "attention": "rows"},
  "one_layer": {"overrides": {"llm.depth": 1}},
  "gemma_2": {"overrides": {**_GEMMA_2, "llm.depth": 2, "llm.sliding_window": 4}},
  "window_of_the_last": {"overrides": {"llm.sliding_window": 4, "llm.num_kv_heads": 2}},
  "dora": {"lora": variants.Lora(rank=2, alpha=4.0, dora=True, targets=("llm/layers/.*",))},
  "quantize": {"quantize": "int8", "quantize_targets": (".*",)},
}
_QUICK = {"xla_backend_optimization_level": 0}


def _config(changes):
  changes = dict(changes)
  sizes = {tower: dict(parts) for tower, parts in _SMALL.items()}
  for name, value in changes.pop("overrides", {}).items():
    tower, key = name.split(".")
    sizes[tower][key] = value
  settings = dict(res=28, vocab_size=90, overrides=sizes, dtype="float32", remat="none")
  return variants.get("tiny", **(settings | changes))


def _parameters(model_config):
  return random_params.make(
    model_config, size=0.2, adapter_size=0.1, scale=(0.1, 0.3), magnitude=(0.8, 1.2)
  )


def _batch():
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (2, 28, 28, 3), np.uint8)
  text = rng.integers(3, 90, (2, 7), np.int32)
  mask_ar = np.array([[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]], np.int32)
  mask_input = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], np.int32)
  return image, text, mask_ar, mask_input


def _outcomes(model_config):
  """Features, gradients of every float parameter, and what a prompt leaves behind."""
  image, text, mask_ar, mask_input = _batch()
  params = _parameters(model_config)
  trainable = {name: x for name, x in params.items() if np.issubdtype(x.dtype, np.floating)}

  @jax.value_and_grad
  def loss(trainable):
    x_BTD = paligemma.text_features(model_config, {**params, **trainable}, image, text, mask_ar)
    return (paligemma.logits(model_config, {**params, **trainable}, x_BTD) ** 2).mean()

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def run():
    prefill = functools.partial(paligemma.prefill, cache_len=15)
    features = paligemma.text_features(
      model_config, params, image, text, mask_ar, mask_input_BT=mask_input
    )
    return (
      features,
      loss(trainable),
      prefill(model_config, params, image, text, mask_ar, mask_input),
    )

  return run()


@pytest.mark.parametrize("case", _CASES)
def test_the_numbers_are_those_of_scanned_layers_and_plain_attention(case):
  model_config = _config(_CASES[case])
  got = _outcomes(model_config)
  with cpu.off():
    want = _outcomes(model_config.replace(attention="plain"))
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(np.abs(b).max(), 1e-3))


def test_it_multiplies_less():
  model_config = _config({})
  image, text, mask_ar, _ = _batch()
  params = _parameters(model_config)

  def num_flops():
    run = functools.partial(paligemma.text_features, model_config)
    return program.matmul_flops(jax.jit(run).trace(params, image, text, mask_ar).jaxpr)

  apart = num_flops()
  with cpu.off():
    together = num_flops()
  # One of three layers is spared most of the products of 4 of 11 positions.
  assert 0.85 < apart / together < 0.95
