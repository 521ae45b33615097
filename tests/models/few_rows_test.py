"""On CPU, products with few rows have the matrix on the left: the numbers stay, the speed does not.

Decoding gives one row per answer, and then all the time goes into reading matrices.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.models import cpu
from paligemma_jax.models import paligemma
from paligemma_jax.models import params as param_table
from paligemma_jax.models import variants
from tests.models import random_params

_LLM = {"depth": 2, "width": 32, "mlp_dim": 48, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
_CASES = {
  "shared_keys": {},
  "own_keys": {"num_kv_heads": 2},
  "gemma_2": {"post_norms": True, "attn_softcap": 20.0, "final_softcap": 30.0},
  "dora": {},
}
_TARGETS = ("llm/layers/.*",)


def _config(case, dtype="float32"):
  sizes = {"img": {"depth": 1, "width": 32, "mlp_dim": 32}, "llm": {**_LLM, **_CASES[case]}}
  more = {"lora": variants.Lora(rank=2, dora=True, targets=_TARGETS)} if case == "dora" else {}
  return variants.get("tiny", res=28, vocab_size=90, overrides=sizes, dtype=dtype, **more)


def _parameters(cfg):
  return random_params.make(cfg, size=0.2, adapter_size=0.1, scale=(0.1, 0.3), magnitude=(0.8, 1.2))


def _extended(cfg, params):
  """Logits of two more tokens after a prompt of text."""
  text = np.random.default_rng(1).integers(3, 90, (3, 5), np.int32)
  ones = np.ones_like(text)

  def run(params):
    _, cache = paligemma.prefill(cfg, params, None, text, 0 * ones, ones, cache_len=7)
    ready = paligemma.ready_to_extend(cfg, params)
    first, cache = paligemma.extend(cfg, ready, text[:, :1], cache)
    return first, paligemma.extend(cfg, ready, text[:, 1:2], cache)[0]

  return jax.jit(run)(params)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 0.02)])
@pytest.mark.parametrize("case", _CASES)
def test_turned_matrices_give_the_same_logits(case, dtype, tolerance):
  cfg = _config(case, dtype)
  params = _parameters(cfg)
  added = paligemma.ready_to_extend(cfg, params).keys() - params.keys()
  assert len(added) == len([n for n in params if n in param_table.MATRICES and "layers" in n])
  got = _extended(cfg, params)
  with cpu.off():
    assert paligemma.ready_to_extend(cfg, params) is params
    want = _extended(cfg, params)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_the_compiler_leaves_the_token_table_on_the_left():
  cfg = _config("shared_keys")
  params = _parameters(cfg)

  def dots(rows):
    run = jax.jit(lambda x, params: jnp.argmax(paligemma.logits(cfg, params, x), axis=-1))
    text = run.lower(jnp.ones((rows, 32)), params).compile().as_text()
    return re.findall(r"f32\[([\d,]+)\]\S* dot\(", text)

  assert dots(8) == ["90,8"]
  assert dots(64) == ["64,90"]
