"""Hugging Face's names for our parameters, and how each is laid out there.

A row: our name, their names, and a pattern `their dims -> our dims` in the letters of `names.py`.
`{i}` is the layer, and the first dimension of ours; several names are stacked in front of the
pattern's dims (as keys and values are).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

_TEXT = "language_model.model"
_LAYER = _TEXT + ".layers.{i}"
_VISION = "vision_tower.vision_model"
_VIT = _VISION + ".encoder.layers.{i}"
_BLOCK = "img/Transformer/encoderblock"
_ATTN = f"{_BLOCK}/MultiHeadDotProductAttention_0"

POSITIONS = f"{_VISION}.embeddings.position_embedding.weight"
EMBEDDING = f"{_TEXT}.embed_tokens.weight"
LM_HEAD = "language_model.lm_head.weight"  # Absent, or a copy of the tied embedding.
# Numbers that follow from the sizes, which some versions saved among the parameters.
BUFFER = re.compile(r"(^|\.)(position_ids|inv_freq|original_inv_freq)$")

_BASE = {
    "img/embedding/kernel": (
        [f"{_VISION}.embeddings.patch_embedding.weight"],
        "d 3 p q -> p q 3 d",
    ),
    "img/embedding/bias": ([f"{_VISION}.embeddings.patch_embedding.bias"], "d -> d"),
    "img/pos_embedding": ([POSITIONS], "s d -> 1 s d"),
    f"{_BLOCK}/LayerNorm_0/scale": ([f"{_VIT}.layer_norm1.weight"], "d -> d"),
    f"{_BLOCK}/LayerNorm_0/bias": ([f"{_VIT}.layer_norm1.bias"], "d -> d"),
    f"{_BLOCK}/LayerNorm_1/scale": ([f"{_VIT}.layer_norm2.weight"], "d -> d"),
    f"{_BLOCK}/LayerNorm_1/bias": ([f"{_VIT}.layer_norm2.bias"], "d -> d"),
    f"{_ATTN}/query/kernel": ([f"{_VIT}.self_attn.q_proj.weight"], "(n h) d -> d n h"),
    f"{_ATTN}/query/bias": ([f"{_VIT}.self_attn.q_proj.bias"], "(n h) -> n h"),
    f"{_ATTN}/key/kernel": ([f"{_VIT}.self_attn.k_proj.weight"], "(n h) d -> d n h"),
    f"{_ATTN}/key/bias": ([f"{_VIT}.self_attn.k_proj.bias"], "(n h) -> n h"),
    f"{_ATTN}/value/kernel": ([f"{_VIT}.self_attn.v_proj.weight"], "(n h) d -> d n h"),
    f"{_ATTN}/value/bias": ([f"{_VIT}.self_attn.v_proj.bias"], "(n h) -> n h"),
    f"{_ATTN}/out/kernel": ([f"{_VIT}.self_attn.out_proj.weight"], "d (n h) -> n h d"),
    f"{_ATTN}/out/bias": ([f"{_VIT}.self_attn.out_proj.bias"], "d -> d"),
    f"{_BLOCK}/MlpBlock_0/Dense_0/kernel": ([f"{_VIT}.mlp.fc1.weight"], "f d -> d f"),
    f"{_BLOCK}/MlpBlock_0/Dense_0/bias": ([f"{_VIT}.mlp.fc1.bias"], "f -> f"),
    f"{_BLOCK}/MlpBlock_0/Dense_1/kernel": ([f"{_VIT}.mlp.fc2.weight"], "d f -> f d"),
    f"{_BLOCK}/MlpBlock_0/Dense_1/bias": ([f"{_VIT}.mlp.fc2.bias"], "d -> d"),
    "img/Transformer/encoder_norm/scale": ([f"{_VISION}.post_layernorm.weight"], "d -> d"),
    "img/Transformer/encoder_norm/bias": ([f"{_VISION}.post_layernorm.bias"], "d -> d"),
    "img/head/kernel": (["multi_modal_projector.linear.weight"], "D d -> d D"),
    "img/head/bias": (["multi_modal_projector.linear.bias"], "D -> D"),
    "llm/embedder/input_embedding": ([EMBEDDING], "V D -> V D"),
    "llm/layers/attn/attn_vec_einsum/w": (
        [f"{_LAYER}.self_attn.o_proj.weight"],
        "D (N H) -> N H D",
    ),
    "llm/layers/mlp/gating_einsum": (
        [f"{_LAYER}.mlp.gate_proj.weight", f"{_LAYER}.mlp.up_proj.weight"],
        "F D -> D F",
    ),
    "llm/layers/mlp/linear": ([f"{_LAYER}.mlp.down_proj.weight"], "D F -> F D"),
    "llm/layers/pre_attention_norm/scale": ([f"{_LAYER}.input_layernorm.weight"], "D -> D"),
    "llm/final_norm/scale": ([f"{_TEXT}.norm.weight"], "D -> D"),
}
_SPLIT_QKV = {
    "llm/layers/attn/q_einsum/w": ([f"{_LAYER}.self_attn.q_proj.weight"], "(N H) D -> N D H"),
    "llm/layers/attn/kv_einsum/w": (
        [f"{_LAYER}.self_attn.k_proj.weight", f"{_LAYER}.self_attn.v_proj.weight"],
        "(K H) D -> K D H",
    ),
}
_FUSED_QKV = {
    "llm/layers/attn/qkv_einsum/w": (
        [f"{_LAYER}.self_attn.{x}_proj.weight" for x in "qkv"],
        "(N H) D -> N D H",
    ),
}
# The same name means another norm in the two generations: in Gemma 1 `post_attention_layernorm`
# comes before the MLP, in Gemma 2 it is applied to the output of attention.
_GEMMA1_NORMS = {
    "llm/layers/pre_ffw_norm/scale": ([f"{_LAYER}.post_attention_layernorm.weight"], "D -> D"),
}
_GEMMA2_NORMS = {
    "llm/layers/post_attention_norm/scale": (
        [f"{_LAYER}.post_attention_layernorm.weight"],
        "D -> D",
    ),
    "llm/layers/pre_ffw_norm/scale": ([f"{_LAYER}.pre_feedforward_layernorm.weight"], "D -> D"),
    "llm/layers/post_ffw_norm/scale": ([f"{_LAYER}.post_feedforward_layernorm.weight"], "D -> D"),
}


def table(*, fused: bool, post_norms: bool) -> dict[str, tuple[list[str], str]]:
  """{our name: (their names, pattern)} for one generation of Gemma."""
  return {
      **_BASE,
      **(_FUSED_QKV if fused else _SPLIT_QKV),
      **(_GEMMA2_NORMS if post_norms else _GEMMA1_NORMS),
  }


def canonical(name: str) -> str:
  """The one spelling used in the table, for any of the spellings that releases have written."""
  name = name.removeprefix("model.")
  if name == "lm_head.weight":
    return LM_HEAD
  if name.startswith("language_model.") and not name.startswith(("language_model.model.", LM_HEAD)):
    return name.replace("language_model.", "language_model.model.", 1)
  if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
  return name


def their_shape(pattern: str, dims: Mapping[str, int]) -> tuple[int, ...]:
  """The shape of the tensor on the left of a pattern."""
  groups = re.findall(r"\(([^)]*)\)|(\S+)", pattern.partition(" -> ")[0])
  return tuple(math.prod(_size(x, dims) for x in (a or b).split()) for a, b in groups)


def to_ours(array: np.ndarray, pattern: str, dims: Mapping[str, int]) -> np.ndarray:
  """A view of the tensor in our layout, without the layer dimension."""
  left, _, right = pattern.partition(" -> ")
  theirs = re.sub(r"[()]", "", left).split()
  array = array.reshape([_size(x, dims) for x in theirs])
  ours = [x for x in right.split() if x != "1"]
  return array.transpose([theirs.index(x) for x in ours]).reshape(
      [_size(x, dims) for x in right.split()]
  )


def to_theirs(array: np.ndarray, pattern: str, dims: Mapping[str, int]) -> np.ndarray:
  """The inverse of `to_ours`."""
  left, _, right = pattern.partition(" -> ")
  ours = [x for x in right.split() if x != "1"]
  array = array.reshape([_size(x, dims) for x in ours])
  theirs = re.sub(r"[()]", "", left).split()
  return array.transpose([ours.index(x) for x in theirs]).reshape(their_shape(pattern, dims))


def _size(letter: str, dims: Mapping[str, int]) -> int:
  return int(letter) if letter.isdigit() else dims[letter]
