"""The reference's and transformers' small models: configs, parameters, inputs, outputs."""

import functools

import jax.numpy as jnp
import numpy as np

from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import opening
from paligemma_jax.models import variants
from tests import golden_files

NUM_IMAGE_TOKENS = 16

_VIT = variants.Vit(width=64, depth=2, mlp_dim=128, num_heads=4)
_TINY = variants.Gemma(
  width=64, depth=2, mlp_dim=128, num_heads=4, num_kv_heads=1, head_dim=16, vocab_size=1200
)
_BV = {
  "tiny": _TINY,
  "tiny2": _TINY.replace(
    width=96,
    num_kv_heads=2,
    post_norms=True,
    query_scale="width_per_head",
    attn_softcap=5.0,
    final_softcap=15.0,
  ),
  "tinymha": _TINY.replace(num_kv_heads=4),
}
BV_NAMES = tuple(_BV)
HF_NAMES = ("hf_paligemma", "hf_paligemma2")


def bv_config(name, *, final_softcap=0.0):
  """The float32 config of golden model `name`; off by default is tiny2's softcap of 15."""
  return variants.ModelConfig(img=_VIT, llm=_BV[name].replace(final_softcap=final_softcap), res=56)


@functools.cache
def bv_params(name):
  """Its parameters, read without our readers: a fault there must not hide one here."""
  return {k.removeprefix("params/"): jnp.asarray(v) for k, v in arrays(f"bv/{name}.npz").items()}


def hf_model(name):
  """(float32 config, parameters, golden arrays) of a transformers model."""
  weights = opening.open_weights(golden_files.path(name))
  model_config = variants.ModelConfig(
    img=variants.Vit(**weights.sizes["img"]),
    llm=variants.Gemma(**weights.sizes["llm"]),
    res=weights.sizes["res"],
  )
  params = load.load_params(weights, weights.entries, dtype=jnp.float32)
  return model_config, params, arrays(f"{name}/golden.npz")


def arrays(name):
  """{key: array} of a golden npz."""
  with np.load(golden_files.path(name)) as f:
    return {key: f[key] for key in f.files}
