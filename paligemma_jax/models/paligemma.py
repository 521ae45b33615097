"""PaliGemma as functions of flat parameters: image tokens, text features, logits, decoding steps.

Parameters are {"img/...": array, "llm/...": array} under the published names; each function needs
only those of the towers it uses, in any float dtype, and casts them to the compute dtype as used.
Adapters and quantized matrices, where the config has them, are parameters too (linear.py).

  B rows, F images per row, R side in pixels, I image tokens, T text tokens, S = I + T positions,
  A answers per row, C cache slots, D the decoder's width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.models import attention_mask
from paligemma_jax.models import cpu
from paligemma_jax.models import gemma
from paligemma_jax.models import linear
from paligemma_jax.models import lora
from paligemma_jax.models import siglip
from paligemma_jax.models import variants

Params = Mapping[str, jax.Array]


def compute_dtype(model_config: variants.ModelConfig) -> Any:
  """The dtype of matmuls."""
  if model_config.dtype == "auto":
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  return jnp.dtype(model_config.dtype)


@functools.lru_cache(maxsize=32)
def _param_shapes(model_config: variants.ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
  return jax.eval_shape(functools.partial(_init, model_config), jax.random.key(0))


def param_shapes(model_config: variants.ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """{name: shape} of every parameter, names sorted; float32 but for quantized codes."""
  return dict(_param_shapes(model_config))


def init_params(model_config: variants.ModelConfig, key: jax.Array) -> dict[str, jax.Array]:
  """Random float32 parameters for training from scratch; may be jitted with out_shardings."""
  return jax.jit(functools.partial(_init, model_config))(key)


def fresh_adapters(
  model_config: variants.ModelConfig, params: Params, key: jax.Array
) -> dict[str, jax.Array]:
  """The float32 adapters of the config, which change nothing yet, for parameters without any."""
  shapes = {name: leaf.shape for name, leaf in param_shapes(model_config.plain()).items()}
  # Folded, so that no adapter of a model from scratch is drawn as another of its parameters.
  return lora.create(
    model_config.lora,
    shapes,
    lambda name: linear.output_norms(model_config, params, name, shapes[name]),
    jax.random.fold_in(key, 1),
  )


def is_quantized(name: str) -> bool:
  """True for the codes and scales of quantized matrices."""
  return bool(linear.published_name(name)[1])


def stays_float32(name: str, *, beside_quantized: bool) -> bool:
  """Whether it is float32 also while frozen: adapters, scales of codes, and norms beside those."""
  norm = beside_quantized and "norm" in name.lower()
  return lora.is_adapter(name) or is_quantized(name) or norm


def image_tokens(
  model_config: variants.ModelConfig,
  params: Params,
  image: jax.Array | None,
  *,
  encoded: jax.Array | None = None,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """The vision tower's tokens, dtype[B, I, D], those of several images one after the other.

  They are not scaled by sqrt(D), unlike text embeddings.

  Args:
    image: [B, R, R, 3] or [B, F, R, R, 3]; uint8, or float in [-1, 1].
    encoded: what `encode_images` gives, in place of the image.
    dropout_key: turns dropout of adapters on when the config has a rate.

  Raises:
    ConfigError: the image is not of the model's resolution.
  """
  if encoded is not None:
    return _run_vit(model_config, params, None, encoded, dropout_key=dropout_key)
  assert image is not None
  pixels = _pixels(model_config, image)
  tokens = _run_vit(model_config, params, pixels, dropout_key=dropout_key)
  return tokens.reshape(image.shape[0], -1, tokens.shape[-1])


def encode_images(
  model_config: variants.ModelConfig, params: Params, image: jax.Array
) -> jax.Array:
  """The input of the vision tower's head, dtype[B, I, the tower's width], of an image.

  The head's parameters must be there.
  """
  pixels = _pixels(model_config, image)
  _, kept = _run_vit(model_config, params, pixels, mutable=["intermediates"])
  (encoded,) = kept["intermediates"]["encoded"]
  return encoded.reshape(image.shape[0], -1, encoded.shape[-1])


def _run_vit(model_config, params, *inputs, dropout_key=None, mutable=False):
  variables = _tower(model_config, params, "img", dropout_key)
  return _vit(model_config).apply(variables, *inputs, mutable=mutable)


def _pixels(model_config, image):
  """float[B * F, R, R, 3] in [-1, 1]."""
  res = model_config.res
  if image.ndim not in (4, 5) or image.shape[-3:] != (res, res, 3):
    raise errors.ConfigError(
      f"The model takes images of shape [B, {res}, {res}, 3] or [B, F, {res}, {res}, 3];"
      f" got {list(image.shape)}. Resize them, or set model.res."
    )
  if image.dtype == jnp.uint8:
    image = -1 + image.astype(jnp.float32) / 255 * 2
  return image.reshape(-1, *image.shape[-3:])


def text_features(
  model_config: variants.ModelConfig,
  params: Params,
  image: jax.Array | None,
  text_BT: jax.Array,
  mask_ar_BT: jax.Array,
  *,
  mask_input_BT: jax.Array | None = None,
  dropout_key: jax.Array | None = None,
  encoded: jax.Array | None = None,
) -> jax.Array:
  """dtype[B, T, D] after the final norm, at the text positions: what `logits` takes.

  Args:
    image, encoded: as in `image_tokens`. With neither there is only text.
    text_BT: int32[B, T].
    mask_ar_BT: int32[B, T]; 0: same block as the token before, 1: a new one.
    mask_input_BT: int32[B, T]; 0 masks a token and does not count its position. None: every
      position counts, as in training, where padding has mask_ar 1: no token before attends to it.
    dropout_key: turns dropout on where the config has a rate.
  """
  dropout = model_config.dropout if dropout_key is not None else 0.0
  rngs = {"dropout": dropout_key} if dropout else None
  model = _llm(model_config, dropout)
  variables = _tower(model_config, params, "llm", dropout_key)
  img_tokens = None
  if image is not None or encoded is not None:
    img_tokens = image_tokens(model_config, params, image, encoded=encoded, dropout_key=dropout_key)
  x_BSD, mask = _sequence(model_config, variables, text_BT, mask_ar_BT, mask_input_BT, img_tokens)
  x_BTD, _ = _last_features(model, variables, x_BSD, mask, text_BT.shape[1], rngs)
  return model.apply(variables, x_BTD, method="norm")


def logits(model_config: variants.ModelConfig, params: Params, x: jax.Array) -> jax.Array:
  """float32[..., V] of features dtype[..., D], softcapped when the config has a final softcap."""
  return _llm(model_config).apply(_tower(model_config, params, "llm"), x, method="head")


def prefill(
  model_config: variants.ModelConfig,
  params: Params,
  image: jax.Array | None,
  text_BT: jax.Array,
  mask_ar_BT: jax.Array,
  mask_input_BT: jax.Array,
  *,
  cache_len: int,
  cache_dtype: Any = None,
) -> tuple[jax.Array, gemma.Cache]:
  """Runs the prompt.

  Args:
    mask_input_BT: int32[B, T], 1 on the prompt's tokens, 0 on padding; each row has at least one.
    cache_len: slots in all, C >= I + T; each `extend` takes as many more as it has answers.
    cache_dtype: of cached keys and values, also in the prompt's own attention; None is the compute
      dtype.

  Returns:
    float32[B, V], the logits after each row's last token, and the cache.
  """
  dtype = compute_dtype(model_config)
  cache_dtype = jnp.dtype(cache_dtype or dtype)
  model = _llm(model_config, cache_dtype=None if cache_dtype == dtype else cache_dtype)
  variables = _tower(model_config, params, "llm")
  img_tokens = None if image is None else image_tokens(model_config, params, image)
  x_BSD, mask = _sequence(model_config, variables, text_BT, mask_ar_BT, mask_input_BT, img_tokens)
  (batch, prompt_len), num_text = x_BSD.shape[:2], text_BT.shape[1]
  x_BTD, (k_LBSKH, v_LBSKH) = _last_features(model, variables, x_BSD, mask, num_text)
  rows = jnp.arange(batch)
  valid_BT = mask_input_BT.astype(bool)
  last_text_B = num_text - 1 - jnp.argmax(valid_BT[:, ::-1], axis=1)
  last_B = prompt_len - num_text + last_text_B
  x_BD = model.apply(variables, x_BTD[rows, last_text_B], method="norm")

  def pad(x, axis, fill=0):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, cache_len - prompt_len)
    return jnp.pad(x, widths, constant_values=fill)

  cache = gemma.Cache(
    k=pad(k_LBSKH.astype(cache_dtype), 2),
    v=pad(v_LBSKH.astype(cache_dtype), 2),
    k_block=pad(mask.k_block, 1, attention_mask.HIDDEN),
    k_pos=pad(mask.k_pos, 1),
    next_pos=mask.q_pos[rows, last_B] + 1,
    next_block=mask.q_block[rows, last_B] + 1,
    slot=jnp.int32(prompt_len),
  )
  return model.apply(variables, x_BD, method="head"), cache


def extend(
  model_config: variants.ModelConfig,
  params: Params,
  token_BA: jax.Array,
  cache: gemma.Cache,
  extra_mask_BAC: jax.Array | None = None,
) -> tuple[jax.Array, gemma.Cache]:
  """Runs one more token of each row's A answers; it takes A slots of the cache.

  Args:
    token_BA: int32[B, A]; all answers of a row are equally long.
    extra_mask_BAC: bool[B or 1, A, C], the slots that an answer attends to: the prompt's and its
      own. Needed with several answers.

  Returns:
    float32[B, A, V], the logits after these tokens, and the cache.
  """
  variables = _tower(model_config, params, "llm")
  return _llm(model_config).apply(variables, token_BA, cache, extra_mask_BAC, method="extend")


def _last_features(model, variables, x_BSD, mask, num_last, rngs=None):
  """Features of the last positions, dtype[B, num_last, D], and the (k, v) of all.

  In the last layer the other positions only give keys and values. Where there is room to copy the
  weights, it therefore runs by itself: scanned layers cannot differ in shapes.
  """
  params = dict(variables["params"])
  if not cpu.has_room(params["layers"]) or model.dropout or num_last == x_BSD.shape[1]:
    x_BSD, kv = model.apply(variables, x_BSD, mask, rngs=rngs)
    return x_BSD[:, x_BSD.shape[1] - num_last :], kv
  sizes, layers = model.sizes, params.pop("layers")
  first, last = (jax.tree.map(cut, layers) for cut in (lambda w: w[:-1], lambda w: w[-1]))
  rope = gemma.rotary_angles(mask.q_pos, sizes.head_dim)
  windows_L = gemma.windows_L(sizes, x_BSD.shape[1])
  window = None if windows_L is None else windows_L[-1]
  kvs = []
  if sizes.depth > 1:
    shallow = model.clone(sizes=dataclasses.replace(sizes, depth=sizes.depth - 1))
    x_BSD, first_kvs = shallow.apply({"params": {**params, "layers": first}}, x_BSD, mask)
    kvs.append(first_kvs)
  layer = gemma.Layer(sizes, model.dtype, model.dropout, model.cache_dtype, model.implementation)
  x_BTD, last_kv = layer.apply(
    {"params": last}, x_BSD, None, window, mask.of_last(num_last), rope, None
  )
  kvs.append(jax.tree.map(lambda x: x[None], last_kv))
  return x_BTD, jax.tree.map(lambda *parts: jnp.concatenate(parts), *kvs)


def _sequence(model_config, variables, text_BT, mask_ar_BT, mask_input_BT, img_tokens):
  """The inputs of the decoder, dtype[B, S, D], and their mask."""
  x_BTD = _llm(model_config).apply(variables, text_BT, method="embed")
  mask_ar_BS = mask_ar_BT.astype(jnp.int32)
  valid_BS = None if mask_input_BT is None else mask_input_BT.astype(bool)
  if img_tokens is None:
    return x_BTD, attention_mask.prefix_lm(mask_ar_BS, valid_BS)
  x_BSD = jnp.concatenate([img_tokens.astype(x_BTD.dtype), x_BTD], axis=1)
  widths = [(0, 0), (img_tokens.shape[1], 0)]
  mask_ar_BS = jnp.pad(mask_ar_BS, widths)
  if valid_BS is not None:
    valid_BS = jnp.pad(valid_BS, widths, constant_values=True)
  return x_BSD, attention_mask.prefix_lm(mask_ar_BS, valid_BS)


def _init(model_config, key):
  img_key, llm_key = jax.random.split(key)
  image = jnp.zeros((1, model_config.res, model_config.res, 3))
  img = _vit(model_config).init(img_key, image)
  llm = _llm(model_config).init(llm_key, jnp.zeros((1, 1), jnp.int32), method="init_all")
  plain = trees.flatten({"img": img["params"], "llm": llm["params"]})
  params = dict(plain)
  for name in linear.quantized(model_config, plain):
    params.update(linear.quantize_param(name, model_config.quantize, params.pop(name)))
  if model_config.lora.rank:
    params.update(fresh_adapters(model_config, params, key))
  return dict(sorted(params.items()))


def _vit(model_config):
  c, dtype = model_config, compute_dtype(model_config)
  return siglip.Siglip(c.img, c.llm.width, dtype, c.remat_policy, c.attention)


def _llm(model_config, dropout=0.0, cache_dtype=None):
  c, dtype = model_config, compute_dtype(model_config)
  return gemma.Gemma(c.llm, dtype, c.remat_policy, dropout, cache_dtype, c.attention)


def _tower(model_config, params, tower, dropout_key=None):
  """What `apply` takes: the parameters of the tower "img" or "llm", with adapters made ready."""
  own = {name: x for name, x in params.items() if name.startswith(f"{tower}/")}
  return {"params": trees.unflatten(lora.ready(model_config.lora, own, dropout_key))[tower]}
