"""PaliGemma as functions of flat parameters: image tokens, text features, logits, decoding steps.

Parameters are {"img/...": array, "llm/...": array} under the published names; each function needs
only those of the towers it uses, in any float dtype, and casts them to the compute dtype as used.
Adapters and quantized matrices, where the config has them, are parameters too (linear.py).

  B rows, F images per row, R side in pixels, I image tokens, T text tokens, S = I + T positions,
  A answers per row, C cache slots, D the decoder's width, V vocabulary.
"""

from __future__ import annotations

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
from paligemma_jax.models import remat
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
  """{name: shape} of every parameter, names sorted; float32 but for quantized codes.

  Allocates nothing.
  """
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
  """True for what is kept in float32 while it is frozen: adapters and the scales of codes.

  Args:
    beside_quantized: the model has quantized matrices; then its norms too.
  """
  norm = beside_quantized and "norm" in name.lower()
  return lora.is_adapter(name) or is_quantized(name) or norm


def image_tokens(
  model_config: variants.ModelConfig,
  params: Params,
  image: jax.Array,
  *,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """The vision tower's tokens, those of several images one after the other.

  Args:
    image: [B, R, R, 3] or [B, F, R, R, 3]; uint8, or float in [-1, 1].
    dropout_key: turns dropout of adapters on when the config has a rate.

  Returns:
    dtype[B, I, D]. They are not scaled by sqrt(D), unlike text embeddings.

  Raises:
    ConfigError: the image is not of the model's resolution.
  """
  flat = _pixels(model_config, image)
  tokens = _vit(model_config).apply(
    {"params": _tower(model_config, params, "img", dropout_key)}, flat
  )
  return tokens.reshape(image.shape[0], -1, tokens.shape[-1])


def encode_images(
  model_config: variants.ModelConfig, params: Params, image: jax.Array
) -> jax.Array:
  """The input of the vision tower's head, dtype[B, I, the tower's width].

  `project_images` of it is `image_tokens` of the image. The head's parameters must be there.

  Args:
    image: as in `image_tokens`.
  """
  variables = {"params": _tower(model_config, params, "img")}
  _, kept = _vit(model_config).apply(
    variables, _pixels(model_config, image), mutable=["intermediates"]
  )
  (encoded,) = kept["intermediates"]["encoded"]
  return encoded.reshape(image.shape[0], -1, encoded.shape[-1])


def project_images(
  model_config: variants.ModelConfig,
  params: Params,
  encoded: jax.Array,
  *,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """The vision tower's tokens, dtype[B, I, D], from the output of `encode_images`."""
  variables = {"params": _tower(model_config, params, "img", dropout_key)}
  return _vit(model_config).apply(variables, None, encoded)


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
  img_tokens: jax.Array | None = None,
) -> jax.Array:
  """dtype[B, T, D] after the final norm, at the text positions: what `logits` takes.

  Args:
    image: as in `image_tokens`; not needed with `img_tokens`. With neither there is only text.
    text_BT: int32[B, T].
    mask_ar_BT: int32[B, T]; 0: same block as the token before, 1: a new one.
    mask_input_BT: int32[B, T]; 0 masks a token and does not count its position. None: every
      position counts, as in training, where padding has mask_ar 1: no token before attends to it.
    dropout_key: turns dropout on where the config has a rate.
    img_tokens: [B, I, D], of `image_tokens`.
  """
  dropout = model_config.dropout if dropout_key is not None else 0.0
  rngs = {"dropout": dropout_key} if dropout else None
  model = _llm(model_config, dropout)
  variables = {"params": _tower(model_config, params, "llm", dropout_key)}
  if img_tokens is None and image is not None:
    img_tokens = image_tokens(model_config, params, image, dropout_key=dropout_key)
  x_BSD, mask = _sequence(model_config, variables, text_BT, mask_ar_BT, mask_input_BT, img_tokens)
  x_BTD, _ = _last_features(model, variables, x_BSD, mask, text_BT.shape[1], rngs)
  return model.apply(variables, x_BTD, method="norm")


def logits(model_config: variants.ModelConfig, params: Params, x: jax.Array) -> jax.Array:
  """float32[..., V] of features dtype[..., D], softcapped when the config has a final softcap."""
  return _llm(model_config).apply({"params": _tower(model_config, params, "llm")}, x, method="head")


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
  variables = {"params": _tower(model_config, params, "llm")}
  img_tokens = None if image is None else image_tokens(model_config, params, image)
  x_BSD, mask = _sequence(model_config, variables, text_BT, mask_ar_BT, mask_input_BT, img_tokens)
  batch, prompt_len = x_BSD.shape[:2]
  num_text = text_BT.shape[1]
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
    token_BA: int32[B, A].
    extra_mask_BAC: bool[B or 1, A, C], the slots that an answer attends to: the prompt's and its
      own. Needed with several answers.

  Returns:
    float32[B, A, V], the logits after these tokens, and the cache.
  """
  model = _llm(model_config)
  variables = {"params": _tower(model_config, params, "llm")}
  x_BAD = model.apply(variables, token_BA, method="embed")
  x_BAD, cache = model.apply(variables, x_BAD, cache, extra_mask_BAC, method="extend")
  x_BAD = model.apply(variables, x_BAD, method="norm")
  return model.apply(variables, x_BAD, method="head"), cache


def _last_features(model, variables, x_BSD, mask, num_last, rngs=None):
  """Features of the last positions, dtype[B, num_last, D], and the (k, v) of all."""
  layers = variables["params"]["layers"]
  if cpu.has_room(layers) and not model.dropout and num_last < x_BSD.shape[1]:
    return cpu.last_features(gemma, model, variables["params"], x_BSD, mask, num_last)
  x_BSD, kv = model.apply(variables, x_BSD, mask, rngs=rngs)
  return x_BSD[:, x_BSD.shape[1] - num_last :], kv


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
  tree = {
    "img": _vit(model_config).init(img_key, image)["params"],
    "llm": _llm(model_config).init(llm_key, jnp.zeros((1, 1), jnp.int32), method="init_all")[
      "params"
    ],
  }
  plain = trees.flatten(tree)
  params = dict(plain)
  for name in linear.quantized(model_config, plain):
    params.update(linear.quantize_param(name, model_config.quantize, params.pop(name)))
  if model_config.lora.rank:
    params.update(fresh_adapters(model_config, params, key))
  return dict(sorted(params.items()))


def _vit(model_config):
  dtype, policy = compute_dtype(model_config), remat.resolve(model_config)
  return siglip.Siglip(
    model_config.img, model_config.llm.width, dtype, policy, model_config.attention
  )


def _llm(model_config, dropout=0.0, cache_dtype=None):
  dtype, policy = compute_dtype(model_config), remat.resolve(model_config)
  return gemma.Gemma(model_config.llm, dtype, policy, dropout, cache_dtype, model_config.attention)


def _tower(model_config, params, tower, dropout_key=None):
  prefix = f"{tower}/"
  own = {name: x for name, x in params.items() if name.startswith(prefix)}
  own = lora.ready(model_config.lora, own, dropout_key)
  return trees.unflatten({name[len(prefix) :]: x for name, x in own.items()})
