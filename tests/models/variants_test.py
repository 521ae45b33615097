"""Sizes: published parameter counts, and settings that do not fit."""

import math

import pytest

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants

# Parameters of the towers as their authors publish them (Gemma's vocabulary is 256 000 there).
_GEMMA_SUMS = {
  "paligemma_3b": 2_506_172_416,
  "paligemma2_3b": 2_614_341_888,
  "paligemma2_10b": 9_241_705_984,
  "paligemma2_28b": 27_227_128_320,
}
_SO400M_SUM = 412_442_352
_LOC_AND_SEG = 1024 + 128


def _count(model_config, prefix):
  shapes = paligemma.param_shapes(model_config)
  return sum(math.prod(x.shape) for name, x in shapes.items() if name.startswith(prefix))


@pytest.mark.parametrize("name", _GEMMA_SUMS)
def test_parameters_add_up_to_the_published_towers(name):
  model_config = variants.get(name, res=224)
  width = model_config.llm.width
  assert _count(model_config, "llm/") == _GEMMA_SUMS[name] + _LOC_AND_SEG * width
  assert _count(model_config, "img/") == _SO400M_SUM + 1152 * width + width


def test_paligemma_3b_has_2_923_335_408_parameters():
  assert _count(variants.get("paligemma_3b", res=224), "") == 2_923_335_408


def test_tiny_fits_in_five_megabytes_of_bfloat16():
  assert 2 * _count(variants.get("tiny", res=224), "") < 5_000_000


@pytest.mark.parametrize("res, num_tokens", [(224, 256), (448, 1024), (896, 4096)])
def test_image_tokens_per_resolution(res, num_tokens):
  model_config = variants.get("paligemma_3b", res=res)
  assert model_config.num_image_tokens == num_tokens
  assert paligemma.param_shapes(model_config)["img/pos_embedding"].shape == (1, num_tokens, 1152)


def test_settings_reach_the_config():
  model_config = variants.get(
    "paligemma2_3b",
    res=448,
    vocab_size=300,
    final_softcap=30.0,
    dropout=0.1,
    overrides={"llm.depth": 2, "img": {"depth": 3}},
  )
  assert (model_config.llm.vocab_size, model_config.llm.final_softcap, model_config.llm.depth) == (
    300,
    30.0,
    2,
  )
  assert (model_config.img.depth, model_config.dropout, model_config.llm.width) == (3, 0.1, 2304)
  assert spec.from_json(spec.to_json(model_config)) == model_config


def test_published_transfers_have_no_final_softcap_and_gemma_2_caps_attention():
  for name, (_, llm) in variants.VARIANTS.items():
    assert llm.final_softcap == 0
    assert llm.attn_softcap == (50 if name.startswith("paligemma2") else 0)


@pytest.mark.parametrize(
  "changes, logged",
  [
    (dict(variant="paligemma2_3B"), "Did you mean 'paligemma2_3b'"),
    (dict(res=225), "multiple of the patch size 14"),
    (dict(dtype="bf16"), "Did you mean 'bfloat16'"),
    (dict(remat="ful"), "Did you mean 'full'"),
    (dict(dropout=1.5), "not in [0, 1)"),
    (dict(overrides={"llm.dept": 2}), "Did you mean 'depth'"),
    (dict(overrides={"lm.depth": 2}), "Did you mean 'llm'"),
    (dict(overrides={"llm.num_kv_heads": 3}), "does not divide"),
    (dict(overrides={"llm.depth": 0}), "not a positive whole number"),
    (dict(overrides={"img.num_heads": 5}), "does not divide img.width=128"),
    (dict(overrides={"llm.query_scale": "head"}), "Did you mean 'head_dim'"),
    (dict(overrides={"llm.depth": 10**9}), "llm.depth=1000000000 is more than any model has"),
    (dict(overrides={"img.width": 1 << 40}), "img.width="),
    (dict(vocab_size=1 << 40), "llm.vocab_size="),
    (dict(res=14 << 20), "model.res=14680064 is more than any model has"),
    (dict(overrides={"llm.depth": True}), "llm.depth=True is not a positive whole number"),
    (dict(overrides={"llm.depth": 2.0}), "llm.depth=2.0 is not a positive whole number"),
    (dict(overrides={"llm.attn_softcap": float("nan")}), "llm.attn_softcap=nan is not a"),
    (dict(overrides={"llm.final_softcap": float("inf")}), "llm.final_softcap=inf is not"),
    (dict(overrides={"llm.final_softcap": -1.0}), "llm.final_softcap=-1.0 is negative"),
    (dict(final_softcap=float("nan")), "llm.final_softcap=nan is not a finite number"),
  ],
)
def test_what_does_not_fit_is_named(changes, logged):
  settings = {"variant": "tiny", "res": 224, **changes}
  with pytest.raises(errors.ConfigError) as e:
    variants.get(settings.pop("variant"), **settings)
  assert logged in str(e.value)
