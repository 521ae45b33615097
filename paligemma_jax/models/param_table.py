"""The one table of parameters: a row for each, with all that the package knows of it.

Hugging Face's names among it. Weights in and out, adapters, quantization and sharding read this
table and no other.

A parameter that a fork adds takes one `self.param` in its module, and `init_fresh` in the config,
so that it starts fresh while the published weights are read. It then lives in the run's own
checkpoints, and published formats refuse it by name. A row here makes it a part of those formats.

Letters of shapes: image tower d width, l depth, f mlp, n heads, h head dim, p (and q in layouts)
patch side, s tokens; language model D width, L depth, F mlp, N heads, K key heads, H head dim,
V vocabulary.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import errors

PREFIX = "params/"  # Released npz files have it in front of every name.
POS_EMBEDDING = "img/pos_embedding"
INPUT_EMBEDDING = "llm/embedder/input_embedding"
# What has the layers as its first dimension; adapters beside such a parameter have it, too.
SCANNED = ("img/Transformer/encoderblock/", "llm/layers/")

_VISION = "vision_tower.vision_model"
_TEXT = "language_model.model"
POSITIONS = f"{_VISION}.embeddings.position_embedding.weight"
EMBEDDING = f"{_TEXT}.embed_tokens.weight"
LM_HEAD = "language_model.lm_head.weight"  # Absent, or a copy of the tied embedding.
# Numbers that follow from the sizes, which some versions saved among the parameters.
BUFFER = re.compile(r"(^|\.)(position_ids|inv_freq|original_inv_freq)$")


@dataclasses.dataclass(frozen=True)
class Param:
  """One parameter.

  name: as published.
  shape: a letter for each dimension.
  hf: Hugging Face's names. `{i}` is the layer, and the first dimension of ours; several names are
    stacked in front of the layout's dimensions (as keys and values are).
  layout: `their dims -> our dims`, of one layer.
  matmul: of a matrix, a letter for each dimension: s a stack of matrices, i an input, o an output;
    '' where the parameter is none.
  tensor: the dimension that the mesh axis "tensor" shards: heads, or hidden units of an MLP, so
    that a layer needs no exchange before the matmul that ends a branch. -1 for none.
  only: '' in every model; "split" or "fused": attention with fewer key heads than heads, or with
    as many; "gemma1" or "gemma2": the generation.
  """

  name: str
  shape: str
  hf: tuple[str, ...]
  layout: str
  matmul: str = ""
  tensor: int = -1
  only: str = ""


def _img(name: str, shape: str, hf: str, layout: str, **rest: Any) -> Param:
  """A row of the image tower's layers."""
  where = f"{_VISION}.encoder.layers.{{i}}.{hf}"
  return Param(f"img/Transformer/encoderblock/{name}", shape, (where,), layout, **rest)


def _llm(name: str, shape: str, hf: tuple[str, ...], layout: str, **rest: Any) -> Param:
  """A row of the language model's layers."""
  where = tuple(f"{_TEXT}.layers.{{i}}.{x}.weight" for x in hf)
  return Param(f"llm/layers/{name}", shape, where, layout, **rest)


_MHA = "MultiHeadDotProductAttention_0"
# fmt: off
# ruff: noqa: E501 (a row of the table is a line)
ROWS = (
  Param("img/embedding/kernel", "p p 3 d", (f"{_VISION}.embeddings.patch_embedding.weight",), "d 3 p q -> p q 3 d"),
  Param("img/embedding/bias", "d", (f"{_VISION}.embeddings.patch_embedding.bias",), "d -> d"),
  Param(POS_EMBEDDING, "1 s d", (POSITIONS,), "s d -> 1 s d"),
  _img("LayerNorm_0/scale", "l d", "layer_norm1.weight", "d -> d"),
  _img("LayerNorm_0/bias", "l d", "layer_norm1.bias", "d -> d"),
  _img("LayerNorm_1/scale", "l d", "layer_norm2.weight", "d -> d"),
  _img("LayerNorm_1/bias", "l d", "layer_norm2.bias", "d -> d"),
  _img(f"{_MHA}/query/kernel", "l d n h", "self_attn.q_proj.weight", "(n h) d -> d n h", matmul="sioo", tensor=2),
  _img(f"{_MHA}/query/bias", "l n h", "self_attn.q_proj.bias", "(n h) -> n h"),
  _img(f"{_MHA}/key/kernel", "l d n h", "self_attn.k_proj.weight", "(n h) d -> d n h", matmul="sioo", tensor=2),
  _img(f"{_MHA}/key/bias", "l n h", "self_attn.k_proj.bias", "(n h) -> n h"),
  _img(f"{_MHA}/value/kernel", "l d n h", "self_attn.v_proj.weight", "(n h) d -> d n h", matmul="sioo", tensor=2),
  _img(f"{_MHA}/value/bias", "l n h", "self_attn.v_proj.bias", "(n h) -> n h"),
  _img(f"{_MHA}/out/kernel", "l n h d", "self_attn.out_proj.weight", "d (n h) -> n h d", matmul="siio", tensor=1),
  _img(f"{_MHA}/out/bias", "l d", "self_attn.out_proj.bias", "d -> d"),
  _img("MlpBlock_0/Dense_0/kernel", "l d f", "mlp.fc1.weight", "f d -> d f", matmul="sio", tensor=2),
  _img("MlpBlock_0/Dense_0/bias", "l f", "mlp.fc1.bias", "f -> f"),
  _img("MlpBlock_0/Dense_1/kernel", "l f d", "mlp.fc2.weight", "d f -> f d", matmul="sio", tensor=1),
  _img("MlpBlock_0/Dense_1/bias", "l d", "mlp.fc2.bias", "d -> d"),
  Param("img/Transformer/encoder_norm/scale", "d", (f"{_VISION}.post_layernorm.weight",), "d -> d"),
  Param("img/Transformer/encoder_norm/bias", "d", (f"{_VISION}.post_layernorm.bias",), "d -> d"),
  Param("img/head/kernel", "d D", ("multi_modal_projector.linear.weight",), "D d -> d D", matmul="io"),
  Param("img/head/bias", "D", ("multi_modal_projector.linear.bias",), "D -> D"),
  Param(INPUT_EMBEDDING, "V D", (EMBEDDING,), "V D -> V D", tensor=0),
  _llm("attn/attn_vec_einsum/w", "L N H D", ("self_attn.o_proj",), "D (N H) -> N H D", matmul="siio", tensor=1),
  _llm("mlp/gating_einsum", "L 2 D F", ("mlp.gate_proj", "mlp.up_proj"), "F D -> D F", matmul="ssio", tensor=3),
  _llm("mlp/linear", "L F D", ("mlp.down_proj",), "D F -> F D", matmul="sio", tensor=1),
  _llm("pre_attention_norm/scale", "L D", ("input_layernorm",), "D -> D"),
  # Hugging Face's post_attention_layernorm comes before the MLP in Gemma 1; in Gemma 2 it is applied
  # to what attention gives.
  _llm("pre_ffw_norm/scale", "L D", ("post_attention_layernorm",), "D -> D", only="gemma1"),
  _llm("pre_ffw_norm/scale", "L D", ("pre_feedforward_layernorm",), "D -> D", only="gemma2"),
  Param("llm/final_norm/scale", "D", (f"{_TEXT}.norm.weight",), "D -> D"),
  _llm("attn/q_einsum/w", "L N D H", ("self_attn.q_proj",), "(N H) D -> N D H", matmul="soio", tensor=1, only="split"),
  _llm("attn/kv_einsum/w", "L 2 K D H", ("self_attn.k_proj", "self_attn.v_proj"), "(K H) D -> K D H", matmul="ssoio", tensor=2, only="split"),
  _llm("attn/qkv_einsum/w", "L 3 N D H", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "(N H) D -> N D H", matmul="ssoio", tensor=2, only="fused"),
  _llm("post_attention_norm/scale", "L D", ("post_attention_layernorm",), "D -> D", only="gemma2"),
  _llm("post_ffw_norm/scale", "L D", ("post_feedforward_layernorm",), "D -> D", only="gemma2"),
)
# fmt: on
TABLE = {row.name: row for row in ROWS}
# The sizes behind the letters; the others follow from them.
_FIELDS = {
  "d": ("img", "width"),
  "l": ("img", "depth"),
  "f": ("img", "mlp_dim"),
  "n": ("img", "num_heads"),
  "p": ("img", "patch_size"),
  "D": ("llm", "width"),
  "L": ("llm", "depth"),
  "F": ("llm", "mlp_dim"),
  "N": ("llm", "num_heads"),
  "K": ("llm", "num_kv_heads"),
  "H": ("llm", "head_dim"),
  "V": ("llm", "vocab_size"),
}
_POST_NORMS = ("post_attention_norm", "post_ffw_norm")  # Gemma 2 has them.
MATRICES = {row.name: row.matmul for row in ROWS if row.matmul}


# What does not follow from shapes. Gemma 2 (it has post norms) caps attention logits at 50; its 27B scales
# queries by (width / heads)^-0.5 (arXiv 2408.00118, table 1). Published transfers run without the
# final softcap.
_GEMMA2_ATTN_SOFTCAP = 50.0
_SHOWN, _LETTERS, _SIZES = 200, 200, 10  # Names of each kind in an error, and how much of them.
_WIDTH_PER_HEAD = {(4608, 32, 128)}  # (width, heads, head dim)


def shapes(sizes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """{published name: shape} of a model with these sizes (the dict that `sizes_of` returns)."""
  return _shapes(rows(sizes), dims_of(sizes))


def rows(sizes: Mapping[str, Any]) -> dict[str, Param]:
  """{name: row} of a model with these sizes."""
  llm = sizes["llm"]
  return _rows(llm["num_heads"] == llm["num_kv_heads"], llm["post_norms"])


def dims_of(sizes: Mapping[str, Any]) -> dict[str, int]:
  """{letter of the table: size}."""
  dims = {letter: sizes[tower][name] for letter, (tower, name) in _FIELDS.items()}
  side = dims["p"]
  return {**dims, "h": dims["d"] // dims["n"], "q": side, "s": (sizes["res"] // side) ** 2}


def sizes_of(
  found: Mapping[str, tuple[int, ...]], where: str, fresh: Collection[str] = ()
) -> dict[str, Any]:
  """The sizes of the model whose parameters have these names and shapes.

  Args:
    found: {published name: shape}, without the `params/` prefix.
    where: the file, for errors.
    fresh: names that the caller does not read: they may be missing or of any shape.

  Returns:
    {"img": fields of the image tower, "llm": fields of the language model, "res": pixels}; {} where
    a size follows only from `fresh` parameters that are missing.

  Raises:
    CheckpointError: names or shapes that are no PaliGemma's; lists every difference.
  """
  if not any(name in TABLE for name in found):
    raise errors.CheckpointError(_unknown_names(found, where))
  votes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
  for name, shape in found.items():
    letters = TABLE[name].shape.split() if name in TABLE else ()
    if len(letters) == len(shape):
      for letter, size in zip(letters, shape, strict=True):
        votes[letter][size] += 1
  # The size most leaves agree on: one wrong leaf is then named, and not all the right ones.
  dims = {letter: counter.most_common(1)[0][0] for letter, counter in votes.items()}
  fused = "llm/layers/attn/qkv_einsum/w" in found
  if fused and "N" in dims:
    dims["K"] = dims["N"]
  gemma2 = any(f"llm/layers/{x}/scale" in found for x in _POST_NORMS)
  check(found, _shapes(_rows(fused, gemma2), dims), where, fresh)
  if fresh and set("dlfnhsDLFNKHV") - dims.keys():
    return {}
  side = math.isqrt(dims["s"])
  if side * side != dims["s"] or min(dims.values()) < 1 or dims["d"] != dims["n"] * dims["h"]:
    raise errors.CheckpointError(
      f"{where}: the shapes fit no model: {dims['s']} image tokens (must be a square), image"
      f" width {dims['d']} (must be heads {dims['n']} x head dim {dims['h']})."
    )
  per_head = (dims["D"], dims["N"], dims["H"]) in _WIDTH_PER_HEAD
  sizes: dict[str, Any] = {"img": {}, "llm": {}, "res": side * dims["p"]}
  for letter, (tower, name) in _FIELDS.items():
    sizes[tower][name] = dims[letter]
  sizes["llm"] |= {
    "post_norms": gemma2,
    "attn_softcap": _GEMMA2_ATTN_SOFTCAP if gemma2 else 0.0,
    "final_softcap": 0.0,
    "query_scale": "width_per_head" if per_head else "head_dim",
    "sliding_window": 0,
  }
  return sizes


def check(
  found: Mapping[str, tuple[int, ...]],
  expected: Mapping[str, tuple[Any, ...]],
  where: str,
  fresh: Collection[str] = (),
) -> None:
  """Raises one CheckpointError that lists missing, surplus and differently shaped names.

  All of them are counted; of each kind _SHOWN are listed.

  Args:
    found, expected: {name: shape} of the file `where` and of the model; '?' stands for a size that
      no array of the file gives.
    fresh: names that are left out on both sides.
  """
  fresh = set(fresh)
  missing = sorted(set(expected) - set(found) - fresh)
  surplus = sorted(set(found) - set(expected) - fresh)
  both = sorted((set(expected) & set(found)) - fresh)
  wrong = [n for n in both if tuple(expected[n]) != tuple(found[n])]
  if not (missing or surplus or wrong):
    return
  lines = [f"  missing {n} {_show(expected[n])}{_near(n, surplus)}" for n in missing[:_SHOWN]]
  for name in surplus[:_SHOWN]:
    lines.append(f"  surplus {name[:_LETTERS]} {_show(found[name])}{_near(name, missing)}")
  for name in wrong[:_SHOWN]:
    line = f"  shape of {name}: {_show(found[name])} in the file, {_show(expected[name])} expected"
    if sorted(map(str, found[name])) == sorted(map(str, expected[name])):
      line += " (transposed?)"
    elif name == INPUT_EMBEDDING and tuple(found[name][1:]) == tuple(expected[name][1:]):
      line += f" (a run takes all rows with model.vocab_size={found[name][0]})"
    lines.append(line)
  left = sum(max(0, len(names) - _SHOWN) for names in (missing, surplus, wrong))
  if left:
    lines.append(f"  and {left} more")
  if 0 < len(missing + wrong) <= 3:
    names = tuple(missing + wrong)
    lines.append(f'A run starts them new with --config.init_fresh="{names!r}".')
  raise errors.CheckpointError(
    f"{where}: the weights do not fit: {len(missing)} missing, {len(surplus)} surplus,"
    f" {len(wrong)} of another shape.\n" + "\n".join(lines)
  )


def only_published(names: Iterable[str], where: str) -> None:
  """Raises a CheckpointError that names a parameter which the published formats have no place for.

  A fork of the model may have such parameters: they live in a run's own checkpoints.
  """
  own = sorted(set(names) - TABLE.keys())
  if own and len(own) < len(set(names)):
    raise errors.CheckpointError(
      f"{where}: the format has no place for {own[0]!r}"
      + (f" and {len(own) - 1} more" if own[1:] else "")
      + ", which no published model has. Only the checkpoints of a run hold parameters of your own;"
      " give its folder to load, evaluate, predict or init."
    )


def strip_prefix(found: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The names without the leading `params/`, which all of them or none must have."""
  prefixed = [name for name in found if name.startswith(PREFIX)]
  if not prefixed:
    return dict(found)
  if len(prefixed) != len(found):
    bare = [name for name in found if not name.startswith(PREFIX)]
    few = min(prefixed, bare, key=len)
    raise errors.CheckpointError(
      f"{where}: {len(prefixed)} names begin with {PREFIX!r} and {len(bare)} do not (e.g."
      f" {few[0]!r}); expected all or none. A file that also holds optimizer state is a training"
      " checkpoint: keep its parameters only."
    )
  return {name.removeprefix(PREFIX): value for name, value in found.items()}


def _rows(fused: bool, gemma2: bool) -> dict[str, Param]:
  kinds = ("", "fused" if fused else "split", "gemma2" if gemma2 else "gemma1")
  return {row.name: row for row in ROWS if row.only in kinds}


def _shapes(rows: Mapping[str, Param], dims: Mapping[str, int]) -> dict[str, tuple]:
  return {
    name: tuple(int(c) if c.isdigit() else dims.get(c, "?") for c in row.shape.split())
    for name, row in rows.items()
  }


def _unknown_names(found: Mapping[str, Any], where: str) -> str:
  if not found:
    return f"{where}: holds no arrays; expected PaliGemma parameters."
  names = sorted(found)
  message = f"{where}: none of its {len(names)} names is a PaliGemma parameter (e.g. {names[0]!r})."
  for name, known in itertools.product(names, TABLE):
    if name.endswith("/" + known):
      prefix = name.removesuffix(known)
      return f"{message} They have {prefix!r} in front; expected 'params/' or nothing."
  return f"{message} Expected names like 'params/{INPUT_EMBEDDING}'."


def _near(name: str, options: list[str]) -> str:
  close = errors.near(name, options, n=1)
  return f" (near: {close[0][:_LETTERS]})" if close else ""


def _show(shape: tuple[Any, ...]) -> str:
  sizes = [str(size) for size in shape[:_SIZES]]
  return "[" + ", ".join(sizes + ["…"] * (len(shape) > _SIZES)) + "]"


def canonical(name: str) -> str:
  """The one spelling used in the table, for any of the spellings that releases have written."""
  name = name.removeprefix("model.")
  if name == "lm_head.weight":
    return LM_HEAD
  name = re.sub(r"^language_model\.(?!model\.|lm_head\.weight)", "language_model.model.", name)
  return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


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
  array = array.transpose([theirs.index(x) for x in ours])
  return array.reshape([_size(x, dims) for x in right.split()])


def to_theirs(array: np.ndarray, pattern: str, dims: Mapping[str, int]) -> np.ndarray:
  """The inverse of `to_ours`."""
  left, _, right = pattern.partition(" -> ")
  ours = [x for x in right.split() if x != "1"]
  array = array.reshape([_size(x, dims) for x in ours])
  theirs = re.sub(r"[()]", "", left).split()
  return array.transpose([ours.index(x) for x in theirs]).reshape(their_shape(pattern, dims))


def _size(letter: str, dims: Mapping[str, int]) -> int:
  return int(letter) if letter.isdigit() else dims[letter]
