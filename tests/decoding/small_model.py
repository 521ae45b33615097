"""A two-layer model with random weights, three prompts, and its forward pass without a cache."""

import functools

import jax
import numpy as np

from paligemma_jax.models import paligemma
from paligemma_jax.models import variants

B, T, N = 3, 6, 5
GENERATIONS = {
  "gemma": {},
  "gemma2": dict(
    num_kv_heads=2,
    post_norms=True,
    attn_softcap=5.0,
    final_softcap=3.0,
    query_scale="width_per_head",
  ),
  "window": dict(num_kv_heads=4, sliding_window=3),
}

_SMALL = {"img": {"depth": 1, "width": 64, "mlp_dim": 96}, "llm": {"depth": 2, "mlp_dim": 96}}
_LENGTHS = np.array([6, 3, 4])
_VALID = (np.arange(T) < _LENGTHS[:, None]).astype(np.int32)
# Row 2's prompt ends in two tokens of a begun answer; padding has mask_ar 1.
_MASK_AR = np.where(_VALID, [[0] * 6, [0] * 6, [0, 0, 1, 1, 1, 1]], 1).astype(np.int32)


def config(generation="gemma"):
  """One of GENERATIONS."""
  overrides = {"img": _SMALL["img"], "llm": {**_SMALL["llm"], **GENERATIONS[generation]}}
  return variants.get("tiny", res=28, vocab_size=50, overrides=overrides, dtype="float32")


@functools.cache
def params(model_config):
  """Random, scaled up so that the best token depends on the context."""
  made = paligemma.init_params(model_config, jax.random.key(0))
  return {k: v * 3 if "attn_vec" in k or "linear" in k else v for k, v in made.items()}


def batch(**changes):
  """A decode batch."""
  rng = np.random.default_rng(3)
  text = rng.integers(3, 50, (B, T), np.int32) * _VALID
  image = rng.integers(0, 256, (B, 28, 28, 3), np.uint8)
  return {
    "image": image,
    "text": text,
    "mask_ar": _MASK_AR,
    "mask_input": _VALID,
    "_mask": np.ones(B, bool),
    "_row": np.arange(B),
    **changes,
  }


def forward(model_config, inputs, new):
  """float32[B, N, V], the logits before each new token, by one forward pass without a cache.

  Each row is its prompt, the new tokens right behind it, then padding that nobody sees.
  """
  text = np.zeros((B, T + N), np.int32)
  mask_ar = np.ones_like(text)
  for row, length in enumerate(_LENGTHS):
    text[row, : length + N] = [*inputs["text"][row, :length], *new[row]]
    mask_ar[row, :length] = _MASK_AR[row, :length]
  logits = np.asarray(
    _logits(model_config, params(model_config), inputs.get("image"), text, mask_ar)
  )
  return np.stack([logits[row, n - 1 : n - 1 + N] for row, n in enumerate(_LENGTHS)])


@functools.partial(jax.jit, static_argnums=0)
def _logits(model_config, params, image, text, mask_ar):
  x_BTD = paligemma.text_features(model_config, params, image, text, mask_ar)
  return paligemma.logits(model_config, params, x_BTD)
