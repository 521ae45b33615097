"""Sizes of a model from a Hugging Face config.json, and a refusal of what we do not compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors

# Keys equal to the class's default are left out of released files, so the defaults are needed:
# GemmaConfig, Gemma2Config and SiglipVisionConfig of transformers 4.41 to 5. A null means off.
_VISION = {
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "intermediate_size": 3072,
  "num_attention_heads": 12,
  "patch_size": 16,
  "image_size": 224,
  "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": 1e-6,
  "num_channels": 3,
}
_GEMMA = {
  "hidden_size": 3072,
  "num_hidden_layers": 28,
  "intermediate_size": 24576,
  "num_attention_heads": 16,
  "num_key_value_heads": 16,
  "head_dim": 256,
  "vocab_size": 256000,
  "hidden_activation": None,
  "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0,
  "attention_bias": False,
  "tie_word_embeddings": True,
}
_GEMMA2 = {
  **_GEMMA,
  "hidden_size": 2304,
  "num_hidden_layers": 26,
  "intermediate_size": 9216,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "hidden_activation": "gelu_pytorch_tanh",
  "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
}
# Far above any model; they bound what is allocated before the weights are read.
_MAX_LAYERS = 1000
_MAX_SIZE = 1 << 26
_MAX_SOFTCAP = 1e6
_TEXT: dict[str, Mapping[str, Any]] = {"gemma": _GEMMA, "gemma2": _GEMMA2}
_ONE_WAY = {  # What our model computes; anything else would be wrong numbers, silently.
  "hidden_act": ("gelu_pytorch_tanh",),
  "layer_norm_eps": (1e-6,),
  "num_channels": (3,),
  "hidden_activation": (None, "gelu_pytorch_tanh"),
  "rms_norm_eps": (1e-6,),
  "rope_theta": (10000, 10000.0),
  "attention_bias": (False,),
  "tie_word_embeddings": (True,),
}


def sizes_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The sizes as in `params.sizes_of`; the vocabulary is as stored, padding included.

  Raises:
    CheckpointError: not a PaliGemma, or with settings that we do not compute.
  """
  if config.get("model_type") != "paligemma":
    raise errors.CheckpointError(
      f"{where}: model_type is {config.get('model_type')!r}, expected 'paligemma'."
    )
  img = _section(config, "vision_config", _VISION, where)
  text = config.get("text_config")
  kind = text.get("model_type", "gemma") if isinstance(text, dict) else "gemma"
  if not isinstance(kind, str) or kind not in _TEXT:
    raise errors.CheckpointError(
      f"{where}: text_config.model_type is {kind!r}, expected 'gemma' or 'gemma2'."
    )
  llm = _section(config, "text_config", _TEXT[kind], where)
  gemma2 = kind == "gemma2"
  if img["hidden_size"] % img["num_attention_heads"] or img["image_size"] % img["patch_size"]:
    raise errors.CheckpointError(
      f"{where}: vision width {img['hidden_size']} and image size {img['image_size']} must be"
      f" multiples of {img['num_attention_heads']} heads and patch {img['patch_size']}."
    )
  return {
    "img": {
      "width": img["hidden_size"],
      "depth": img["num_hidden_layers"],
      "mlp_dim": img["intermediate_size"],
      "num_heads": img["num_attention_heads"],
      "patch_size": img["patch_size"],
    },
    "llm": {
      "width": llm["hidden_size"],
      "depth": llm["num_hidden_layers"],
      "mlp_dim": llm["intermediate_size"],
      "num_heads": llm["num_attention_heads"],
      "num_kv_heads": llm["num_key_value_heads"],
      "head_dim": llm["head_dim"],
      "vocab_size": llm["vocab_size"],
      "post_norms": gemma2,
      "attn_softcap": float(llm["attn_logit_softcapping"] or 0) if gemma2 else 0.0,
      "final_softcap": float(llm["final_logit_softcapping"] or 0) if gemma2 else 0.0,
      "query_scale": _query_scale(llm, where) if gemma2 else "head_dim",
      "sliding_window": _sliding_window(llm, where) if gemma2 else 0,
    },
    "res": img["image_size"],
  }


def config_of(sizes: Mapping[str, Any], dtype: str, image_token: int, rows: int) -> dict[str, Any]:
  """The config.json of a model with these sizes: what `sizes_of` reads them from.

  It has the keys of released files too, which older versions of transformers and keras-hub read.

  Args:
    image_token: the id that stands for image tokens.
    rows: of the stored embedding.
  """
  img, llm = sizes["img"], sizes["llm"]
  num_image_tokens = (sizes["res"] // img["patch_size"]) ** 2
  text = {
    "model_type": "gemma2" if llm["post_norms"] else "gemma",
    "hidden_size": llm["width"],
    "num_hidden_layers": llm["depth"],
    "intermediate_size": llm["mlp_dim"],
    "num_attention_heads": llm["num_heads"],
    "num_key_value_heads": llm["num_kv_heads"],
    "head_dim": llm["head_dim"],
    "vocab_size": rows,
    "num_image_tokens": num_image_tokens,
    "hidden_activation": "gelu_pytorch_tanh",
    "torch_dtype": dtype,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
  }
  if llm["post_norms"]:
    window = llm["sliding_window"]
    kinds = ("sliding_attention", "full_attention") if window else ("full_attention",) * 2
    text |= {
      "attn_logit_softcapping": llm["attn_softcap"] or None,
      "final_logit_softcapping": llm["final_softcap"] or None,
      "query_pre_attn_scalar": (
        llm["head_dim"] if llm["query_scale"] == "head_dim" else llm["width"] // llm["num_heads"]
      ),
      "sliding_window": window or _GEMMA2["sliding_window"],
      "layer_types": [kinds[i % 2] for i in range(llm["depth"])],
    }
  vision = {
    "model_type": "siglip_vision_model",
    "hidden_size": img["width"],
    "num_hidden_layers": img["depth"],
    "intermediate_size": img["mlp_dim"],
    "num_attention_heads": img["num_heads"],
    "patch_size": img["patch_size"],
    "image_size": sizes["res"],
    "num_image_tokens": num_image_tokens,
    "projection_dim": llm["width"],
    "vision_use_head": False,
    "torch_dtype": dtype,
  }
  return {
    "architectures": ["PaliGemmaForConditionalGeneration"],
    "model_type": "paligemma",
    "dtype": dtype,
    "torch_dtype": dtype,
    "hidden_size": llm["width"],
    "projection_dim": llm["width"],
    "image_token_index": image_token,
    "_vocab_size": llm["vocab_size"],
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "text_config": text,
    "vision_config": vision,
  }


def _section(
  config: Mapping[str, Any], name: str, defaults: Mapping[str, Any], where: str
) -> dict[str, Any]:
  """The section with defaults filled in; whole numbers and one-way settings are checked."""
  given = config.get(name)
  if not isinstance(given, dict):
    raise errors.CheckpointError(f"{where}: has no {name}.")
  rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
  if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
    raise errors.CheckpointError(f"{where}: {name} scales rotary positions ({rope}); ours are not.")
  section = {**defaults, **given, **{k: rope[k] for k in ("rope_theta",) if k in rope}}
  for key, default in defaults.items():
    value = section[key]
    most = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_SIZE
    if type(default) is int and not (type(value) is int and 0 < value <= most):
      if value is not None or key != "sliding_window":
        raise errors.CheckpointError(
          f"{where}: {name}.{key} is {value!r}, not a whole number from 1 to {most}."
        )
    if key in _ONE_WAY and value not in _ONE_WAY[key]:
      raise errors.CheckpointError(
        f"{where}: {name}.{key} is {value!r}; the model computes {_ONE_WAY[key][-1]!r} only."
      )
    if key.endswith("softcapping") and value is not None:
      # The comparison is false of NaN too.
      if type(value) not in (int, float) or not 0 <= value < _MAX_SOFTCAP:
        raise errors.CheckpointError(
          f"{where}: {name}.{key} is {value!r}; expected null or a number from 0 to"
          f" {_MAX_SOFTCAP:g}."
        )
  return section


def _query_scale(llm: Mapping[str, Any], where: str) -> str:
  scalar = llm["query_pre_attn_scalar"]
  if scalar == llm["head_dim"]:
    return "head_dim"
  if scalar * llm["num_attention_heads"] == llm["hidden_size"]:
    return "width_per_head"
  raise errors.CheckpointError(
    f"{where}: text_config.query_pre_attn_scalar is {scalar}; expected the head dim"
    f" {llm['head_dim']} or width / heads."
  )


def _sliding_window(llm: Mapping[str, Any], where: str) -> int:
  """The window of every other layer, the first one included; 0 where no layer has one."""
  types = llm.get("layer_types")
  window = llm["sliding_window"] or 0
  if types is None or not window:
    return window
  depth = llm["num_hidden_layers"]
  if types == ["full_attention"] * depth:
    return 0
  if types == [("sliding_attention", "full_attention")[i % 2] for i in range(depth)]:
    return window
  raise errors.CheckpointError(
    f"{where}: text_config.layer_types is {str(types)[:200]}; expected sliding and full attention"
    f" in turn, {depth} in all."
  )
