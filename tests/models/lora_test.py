"""Adapters and quantized matrices: they start as nothing, and merge to the same thing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.checkpoint import load
from paligemma_jax.core import errors
from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from tests.models import random_params

_ALL = ("llm/layers/.*", "img/.*")
_SMALL = {
  "img": dict(width=64, depth=2, mlp_dim=96, num_heads=4),
  "llm": dict(
    width=128, depth=2, mlp_dim=192, num_heads=4, num_kv_heads=1, head_dim=32, vocab_size=80
  ),
}
_KINDS = {
  "lora": dict(lora=variants.Lora(rank=4, targets=_ALL)),
  "rslora, some": dict(
    lora=variants.Lora(rank=4, alpha=3.0, rslora=True, targets=(".*/kv_einsum/w", ".*linear"))
  ),
  "dora": dict(lora=variants.Lora(rank=4, dora=True, targets=_ALL)),
  "nf4": dict(quantize="nf4", quantize_targets=(".*",)),
  "nf4 lora": dict(
    lora=variants.Lora(rank=4, targets=_ALL), quantize="nf4", quantize_targets=(".*",)
  ),
  "int8 dora": dict(
    lora=variants.Lora(rank=4, dora=True, targets=_ALL), quantize="int8", quantize_targets=(".*",)
  ),
}


def _config(overrides=_SMALL, **changes):
  return variants.get("tiny", res=28, dtype="float32", overrides=overrides, **changes)


@functools.cache
def _params(kind):
  """(config, random parameters); adapters as fresh ones are: B is 0."""
  model_config = _config(**_KINDS[kind])
  sizes = dict(size=0.1, adapter_size=0.1, scale=(0.05, 0.15), magnitude=(0.05, 0.15))
  params = random_params.make(model_config, **sizes)
  for name in params:
    if name.endswith("lora_b"):
      params[name] *= 0
  return model_config, params


def _moved(params):
  """With adapters that do something."""
  rng = np.random.default_rng(1)
  return {
    name: x + 0.1 * rng.normal(size=x.shape).astype(np.float32) if "lora_" in name else x
    for name, x in params.items()
  }


@functools.cache
def _program(model_config):
  rng = np.random.default_rng(2)
  image = rng.uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32)
  text = rng.integers(3, 80, (2, 6))
  mask_ar = np.array([[0, 0, 0, 1, 1, 1]] * 2)

  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def run(params, key):
    x_BTD = paligemma.text_features(model_config, params, image, text, mask_ar, dropout_key=key)
    return paligemma.logits(model_config, params, x_BTD)

  return run


def _logits(model_config, params, key=None):
  return np.asarray(_program(model_config)(params, key))


def _published(model_config, params):
  leaves = load.published(model_config, params)
  return {name: np.asarray(leaf[: leaf.shape[0]]) for name, leaf in leaves.items()}


def test_adapters_stand_beside_what_they_adapt():
  _, params = _params("dora")
  shapes = {name: x.shape for name, x in params.items() if "lora_" in name}
  assert shapes["llm/layers/attn/q_einsum/lora_a"] == (2, 128, 4)
  assert shapes["llm/layers/attn/q_einsum/lora_b"] == (2, 4, 4, 32)
  assert shapes["llm/layers/attn/kv_einsum/lora_a"] == (2, 2, 128, 4)
  assert shapes["llm/layers/attn/kv_einsum/lora_b"] == (2, 2, 4, 1, 32)
  assert shapes["llm/layers/attn/attn_vec_einsum/lora_a"] == (2, 4, 32, 4)
  assert shapes["llm/layers/mlp/gating_einsum_lora_b"] == (2, 2, 4, 192)
  assert shapes["llm/layers/mlp/gating_einsum_lora_magnitude"] == (2, 2, 192)
  assert shapes["llm/layers/mlp/linear_lora_a"] == (2, 192, 4)
  assert shapes["img/head/lora_b"] == (4, 128)
  assert shapes["img/Transformer/encoderblock/MlpBlock_0/Dense_0/lora_a"] == (2, 64, 4)
  assert len(shapes) == 3 * 12
  assert paligemma.param_shapes(_params("dora")[0]).keys() == params.keys()


def test_what_is_made_from_scratch_has_every_part():
  model_config = _config(
    lora=variants.Lora(rank=2, dora=True, targets=(".*linear",)),
    quantize="int4",
    quantize_targets=(".*linear", "llm/embedder/.*"),
  )
  options = {"xla_backend_optimization_level": 0}
  made = jax.jit(paligemma.init_params, static_argnums=0, compiler_options=options)
  params = made(model_config, jax.random.key(0))
  shapes = paligemma.param_shapes(model_config)
  assert {n: (x.shape, x.dtype) for n, x in params.items()} == {
    n: (x.shape, x.dtype) for n, x in shapes.items()
  }
  assert "llm/layers/mlp/linear_int4_scale" in params and "llm/layers/mlp/linear" not in params
  leaf = _published(model_config, params)["llm/layers/mlp/linear"]
  length = np.linalg.norm(leaf, axis=1)
  np.testing.assert_allclose(params["llm/layers/mlp/linear_lora_magnitude"], length, rtol=1e-5)


def test_fresh_adapters_change_no_bit():
  model_config, params = _params("lora")
  plain = {name: x for name, x in params.items() if "lora_" not in name}
  np.testing.assert_array_equal(_logits(model_config, params), _logits(model_config.plain(), plain))


@pytest.mark.parametrize("kind", ["dora", "int8 dora"])
def test_fresh_dora_changes_nothing_but_rounding(kind):
  model_config, params = _params(kind)
  base = {name: x for name, x in params.items() if "lora_" not in name}
  model_config = model_config.replace(
    lora=model_config.lora.replace(targets=("img/head/kernel", ".*/kv_einsum/w"))
  )
  fresh = paligemma.fresh_adapters(model_config, base, jax.random.key(0))
  assert {name.rpartition("/")[2] for name in fresh} == set(linear.ADAPTER)
  want = _logits(model_config.replace(lora=variants.Lora()), base)
  found = _logits(model_config, {**base, **fresh})
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_fresh_adapters_are_drawn_from_the_key_and_their_b_is_zero():
  model_config, params = _params("lora")
  model_config = model_config.replace(
    lora=model_config.lora.replace(targets=("llm/layers/mlp/.*",))
  )
  one, same, other = (
    paligemma.fresh_adapters(model_config, params, jax.random.key(k)) for k in (0, 0, 1)
  )
  assert set(one) == {name for name in params if "mlp" in name and "lora_" in name}
  for name, leaf in one.items():
    np.testing.assert_array_equal(leaf, same[name])
    assert leaf.shape == params[name].shape and leaf.dtype == np.float32
    if name.endswith("lora_b"):
      assert not leaf.any()
    else:
      assert np.abs(leaf - other[name]).max() > 0
  limit = 192**-0.5
  assert 0.9 * limit < np.abs(one["llm/layers/mlp/linear_lora_a"]).max() <= limit


@pytest.mark.parametrize("kind", _KINDS)
def test_merged_equals_unmerged(kind):
  model_config, params = _params(kind)
  moved = _moved(params)
  want = _logits(model_config, moved)
  merged = _published(model_config, moved)
  assert set(merged) == set(paligemma.param_shapes(model_config.plain()))
  found = _logits(model_config.plain(), merged)
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())
  if model_config.lora.rank:
    assert np.abs(want - _logits(model_config, params)).max() > 1e-3 * np.abs(want).max()


def test_heads_of_the_fused_kind_are_adapted_too():
  overrides = {**_SMALL, "llm": {**_SMALL["llm"], "num_kv_heads": 4}}
  model_config = _config(overrides, lora=variants.Lora(rank=2, targets=(".*qkv_einsum/w",)))
  rng = np.random.default_rng(0)
  params = {
    name: 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
    for name, leaf in paligemma.param_shapes(model_config).items()
  }
  assert params["llm/layers/attn/qkv_einsum/lora_b"].shape == (2, 3, 2, 4, 32)
  want = _logits(model_config, params)
  found = _logits(model_config.plain(), _published(model_config, params))
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_dropout_of_adapters_is_drawn_from_the_key_and_is_off_without_one():
  kind = dict(lora=variants.Lora(rank=4, dropout=0.5, targets=_ALL))
  model_config = _config(**kind)
  params = _moved(_params("lora")[1])
  plain = _logits(_params("lora")[0], params)
  np.testing.assert_array_equal(_logits(model_config, params), plain)
  one, same, other = (_logits(model_config, params, jax.random.key(k)) for k in (0, 0, 1))
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - plain).max() > 1e-3 and np.abs(one - other).max() > 1e-3


def test_a_kept_input_is_scaled_so_that_the_mean_stays():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 64, 64)).astype(np.float32)
  keep = {"lora_key": jax.random.key_data(jax.random.key(3)), "lora_keep": jnp.float32(0.8)}
  w = linear.Kernel(
    (64, 64), jnp.float32, {"w": jnp.zeros((64, 64)), "lora_a": a, "lora_b": b, **keep}
  )
  x = jnp.ones((4000, 64))
  found = linear.matmul("XD,DF->XF", x, w).mean(axis=0)
  want = (x[0] @ a) @ b
  np.testing.assert_allclose(found, want, rtol=0, atol=0.05 * np.abs(want).max())


def test_packing_covers_all_matrices_and_the_table():
  _, params = _params("nf4")
  left = {name for name in params if params[name].dtype == np.float32 and "_scale" not in name}
  assert not any(
    name in param_table.MATRICES or name == param_table.INPUT_EMBEDDING for name in left
  )
  assert params["llm/layers/mlp/gating_einsum_nf4"].dtype == np.uint8
  assert params["llm/layers/mlp/gating_einsum_nf4"].shape == (2, 2, 64, 192)
  assert params["llm/embedder/input_embedding_nf4"].shape == (80, 64)
  assert linear.published_name("llm/layers/mlp/linear_nf4_scale") == (
    "llm/layers/mlp/linear",
    "nf4",
  )
  assert linear.published_name("llm/final_norm/scale") == ("llm/final_norm/scale", "")


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(lora=variants.Lora(rank=2, targets=("llm/layers/atn/.*",))), "lora.targets.*atn"),
    (dict(lora=variants.Lora(rank=2, targets=("llm/embedder/.*",))), "lora.targets.*embedder"),
    (dict(quantize="nf5", quantize_targets=(".*",)), "Unknown model.quantize 'nf5'.*nf4"),
    (dict(quantize="nf4", quantize_targets=(".*scale",)), "model.quantize_targets.*scale"),
  ],
)
def test_what_matches_no_matrix_is_named(settings, message):
  with pytest.raises(errors.ConfigError, match=message):
    paligemma.param_shapes(_config(**settings))
