"""Adapters of Hugging Face PEFT, merged into their base: what `merge_and_unload` would give.

Merged are LoRA, rsLoRA and DoRA on any linear layer, on the patch and position embeddings, with
ranks and alphas by pattern; biases that trained; modules and rows of tokens that were saved whole.
What cannot be merged exactly is refused by name. All is computed in float32, one layer at a time.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import peft_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import param_table

# Settings that change no merged number, or that are read here.
_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "trainable_token_indices", "use_dora", "use_rslora", "ensure_weight_tying",
}  # fmt: skip
# Initialisations that leave the base as it was; others take something out of it first.
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal")
# The end of a tensor's name in PEFT, which part of a change it is, and of what in its module.
_PARTS = (
  (r"\.lora_([AB])(?:\.default)?\.weight(?:\.default)?$", "{}", "weight"),
  (r"\.lora_[AB](?:\.default)?\.bias(?:\.default)?$", "bias", "bias"),
  # Of an embedding: A is [r, rows], B [width, r], and B A is transposed.
  (r"\.lora_embedding_([AB])(?:\.default)?$", "embedding_{}", "weight"),
  (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?(?:\.default)?$", "magnitude", "weight"),
  (r"\.(?:token_adapter\.)?trainable_tokens_delta(?:\.default)?$", "rows", "weight"),
)


def is_adapter(path: pathlib.Path) -> bool:
  """True for a directory that PEFT wrote."""
  return (path / peft_export.CONFIG).is_file() and not (path / "config.json").exists()


def base_of(path: pathlib.Path) -> str:
  """What the adapters say that they are adapters of.

  Raises:
    CheckpointError: they do not say it.
  """
  settings = reader.read_json(path / peft_export.CONFIG)
  base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
  if not isinstance(base, str) or not base:
    raise errors.CheckpointError(
      f"{path}: is a directory of PEFT adapters whose {peft_export.CONFIG} names no base. Name it:"
      f' load(…, base=PATH), or "{path}:base=PATH" where a path is wanted.'
    )
  return f"{base}@{revision}" if isinstance(revision, str) and revision else base


def open_adapter(path: pathlib.Path, base: reader.Weights) -> reader.Weights:
  """The base with the adapters of the directory `path` in it.

  Raises:
    CheckpointError: damaged files, adapters of another model, or of a kind that cannot be merged.
  """
  settings = reader.read_json(path / peft_export.CONFIG)
  _check_settings(settings, path)
  if not (path / peft_export.TENSORS).exists():
    raise errors.CheckpointError(
      f"{path}: has no {peft_export.TENSORS}; adapters in other formats (*.bin are pickles) are not"
      " read."
    )
  changes = _changes(reader.safetensors_header(path / peft_export.TENSORS), settings, path)
  sizes = _sizes(base.sizes, changes)
  table, dims = param_table.rows(sizes), param_table.dims_of(sizes)
  shapes = param_table.shapes(sizes)
  owners = {
    their: row for name, row in table.items() for their, _ in hf.places(row, shapes[name][0])
  }
  if unknown := sorted(changes.keys() - owners.keys()):
    raise errors.CheckpointError(
      f"{path}: {len(unknown)} of its {len(changes)} adapted tensors are none of this base"
      f" ({base.path}); the first is {unknown[0]!r}."
    )
  for their, change in changes.items():
    change.check(param_table.their_shape(owners[their].layout, dims), f"{path}: {their}")
  changed = {owners[their].name for their in changes}

  def blocks(name: str, fill: reader.Fill = reader.fill_alone) -> Iterator[np.ndarray]:
    if name not in changed:
      yield from base.blocks(name, fill=fill)
      return
    theirs, pattern = table[name].hf, table[name].layout
    layered, layer = "{i}" in theirs[0], 0
    for block in base.blocks(name, fill=fill) if layered else [base.read(name, fill=fill)]:
      merged = []
      for row in block if layered else [block]:
        parts = [row] if len(theirs) == 1 else list(row)
        own = [changes.get(their.format(i=layer)) for their in theirs]
        parts = [
          _applied(change, part, pattern, dims) for change, part in zip(own, parts, strict=True)
        ]
        merged.append(parts[0] if len(theirs) == 1 else np.stack(parts))
        layer += 1
      yield np.stack(merged) if layered else merged[0]

  entries = {
    name: reader.Entry(shapes[name], np.dtype(np.float32)) if name in changed else entry
    for name, entry in base.entries.items()
  }
  return dataclasses.replace(
    base,
    path=path,
    base=base.path,
    kind="peft",
    entries=entries,
    sizes=sizes,
    blocks=blocks,
    restore=None,
    tokenizer=hub.find_tokenizer(path) or base.tokenizer,
  )


@dataclasses.dataclass
class _Change:
  """What happens to one tensor of the base, in torch's layout.

  Attributes:
    parts: {"whole", "A", "B", "magnitude", "bias", "rows"}: those that there are; of an embedding
      "embedding_A", "embedding_B".
    scale: of B A.
    token_ids: of "rows".
  """

  parts: dict[str, reader.Tensor] = dataclasses.field(default_factory=dict)
  scale: float = 1.0
  token_ids: tuple[int, ...] = ()

  def check(self, shape: tuple[int, ...], where: str) -> None:
    """Raises CheckpointError unless the parts fit a tensor of this shape."""
    found = {key: tensor.entry.shape for key, tensor in self.parts.items()}
    rank = found["A"][0] if found.get("A") else 0
    fits = {
      "whole": lambda s: s == shape,
      "A": lambda s: len(s) > 1 and math.prod(s[1:]) == math.prod(shape[1:]),
      "B": lambda s: len(s) > 1 and s[:2] == (shape[0], rank) and math.prod(s) == shape[0] * rank,
      "embedding_A": lambda s: s[1:] == shape[:1],
      "embedding_B": lambda s: s == (shape[1], found["embedding_A"][0]),
      "magnitude": lambda s: math.prod(s) == shape[0],
      "bias": lambda s: s == shape,
      "rows": lambda s: s == (len(self.token_ids), *shape[1:]),
    }
    pair = all((p + "A" in found) == (p + "B" in found) for p in ("", "embedding_"))
    wrong = {key: list(s) for key, s in found.items() if pair and not fits[key](s)}
    inside = all(0 <= i < shape[0] for i in self.token_ids)
    if wrong or not pair or not inside or ("magnitude" in found and "A" not in found):
      raise errors.CheckpointError(
        f"{where}: its adapter does not fit {list(shape)}: {wrong or sorted(found)}."
      )

  def of(self, w: np.ndarray) -> np.ndarray:
    """The tensor, changed."""
    read = {k: reader.rows(t, 0, t.entry.shape[0]) for k, t in self.parts.items()}
    read = {k: x.astype(np.float32) for k, x in read.items()}
    w = read["whole"] if "whole" in read else np.array(w, np.float32)
    if "rows" in read:
      w[list(self.token_ids)] = read["rows"]
    if "bias" in read:
      w = w + np.float32(self.scale) * read["bias"]
    if "A" in read:
      a, b = read["A"].reshape(len(read["A"]), -1), read["B"].reshape(len(w), -1)
      w = w + (np.float32(self.scale) * (b @ a)).reshape(w.shape)
    if "embedding_A" in read:
      w = w + np.float32(self.scale) * (read["embedding_B"] @ read["embedding_A"]).T
    if "magnitude" in read:
      length = np.linalg.norm(w.reshape(len(w), -1), axis=1)
      w = w * (read["magnitude"].reshape(-1) / length).reshape(-1, *[1] * (w.ndim - 1))
    return w


def _applied(change: _Change | None, ours: np.ndarray, pattern: str, dims: Mapping[str, int]):
  if change is None:
    return np.asarray(ours, np.float32)
  if "whole" in change.parts and len(change.parts) == 1:
    return param_table.to_ours(change.of(np.zeros(0)), pattern, dims)
  theirs = param_table.to_theirs(np.asarray(ours, np.float32), pattern, dims)
  return param_table.to_ours(change.of(theirs), pattern, dims)


def _changes(
  tensors: Mapping[str, reader.Tensor], settings: Mapping[str, Any], path: pathlib.Path
) -> dict[str, _Change]:
  """{canonical tensor name: what happens to it}."""
  changes: dict[str, _Change] = {}
  ranks: dict[str, int] = {}
  for name, tensor in sorted(tensors.items()):  # So lora_A comes before the bias of lora_B.
    key, part, module = _place(name)
    target = changes.setdefault(key, _Change())
    if part in target.parts and not _same(target.parts[part], tensor):
      raise errors.CheckpointError(f"{path}: {name!r} is there twice, with other numbers.")
    target.parts[part] = tensor
    if part.endswith("A"):
      ranks[module] = tensor.entry.shape[0] if tensor.entry.shape else 0
    if part.endswith("A") or part == "bias":
      target.scale = _scale(settings, module, ranks.get(module, 0), path)
    if part == "rows":
      target.token_ids = _token_ids(settings, module, path)
  head = changes.pop(param_table.LM_HEAD, None)
  if head is not None:
    table = changes.get(param_table.EMBEDDING)
    if (
      table is None
      or not set(table.parts) == set(head.parts) <= {"whole", "rows"}
      or not all(_same(table.parts[part], head.parts[part]) for part in head.parts)
    ):
      raise errors.CheckpointError(
        f"{path}: adapts lm_head in another way than the embedding; PaliGemma ties the two, so"
        " this cannot be merged."
      )
  table = changes.get(param_table.EMBEDDING)
  if table and {"A", "embedding_A"} & table.parts.keys():
    raise errors.CheckpointError(
      f"{path}: has a low-rank adapter on the token embedding, which PEFT does not add to the"
      " head that is tied to it, so this cannot be merged."
    )
  return changes


def _place(name: str) -> tuple[str, str, str]:
  """(canonical tensor name, part, the module's name) of one of PEFT's tensors."""
  bare = name.removeprefix(peft_export.PREFIX)
  for regex, part, of in _PARTS:
    if match := re.search(regex, bare):
      module = bare[: match.start()]
      return param_table.canonical(f"{module}.{of}"), part.format(*match.groups()), module
  for wrapper in (".modules_to_save.default", ".base_layer"):
    bare = bare.replace(wrapper, "")
  return param_table.canonical(bare), "whole", bare.rpartition(".")[0]


def _scale(settings: Mapping[str, Any], module: str, rank: int, path: pathlib.Path) -> float:
  alpha = settings.get("lora_alpha", 8)
  for pattern, value in (settings.get("alpha_pattern") or {}).items():
    try:
      # As PEFT looks a module up; the first pattern that matches counts.
      matches = re.match(rf"(.*\.)?({pattern})$", module)
    except re.error as e:
      raise errors.CheckpointError(f"{path}: alpha_pattern {pattern!r} is no regex: {e}.") from None
    if matches:
      alpha = value
      break
  if type(alpha) not in (int, float) or type(rank) is not int or rank < 1:
    raise errors.CheckpointError(f"{path}: alpha {alpha!r} over the rank {rank!r} is no scale.")
  return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _token_ids(settings: Mapping[str, Any], module: str, path: pathlib.Path) -> tuple[int, ...]:
  ids = settings.get("trainable_token_indices")
  if isinstance(ids, dict):
    ids = next((value for key, value in ids.items() if module.endswith(key)), None)
  if not isinstance(ids, list) or not all(type(i) is int for i in ids):
    raise errors.CheckpointError(f"{path}: trainable_token_indices {ids!r} are no token ids.")
  return tuple(ids)


def _same(a: reader.Tensor, b: reader.Tensor) -> bool:
  """Whether two tensors hold the same; both are read, in blocks."""
  if a.entry != b.entry:
    return False
  num_rows = a.entry.shape[0] if a.entry.shape else 1
  blocks = zip(reader.row_blocks(a, num_rows), reader.row_blocks(b, num_rows), strict=True)
  return all(np.array_equal(x, y) for x, y in blocks)


def _sizes(sizes: Mapping[str, Any], changes: dict[str, _Change]) -> dict[str, Any]:
  """Of the base, with the vocabulary and the resolution of embeddings that were saved whole."""
  found = {name: change.parts.get("whole") for name, change in changes.items()}
  table, positions = found.get(param_table.EMBEDDING), found.get(param_table.POSITIONS)
  res, words = sizes["res"], sizes["llm"]["vocab_size"]
  if positions is not None and positions.entry.shape:
    side = math.isqrt(positions.entry.shape[0])
    res = side * sizes["img"]["patch_size"] if side**2 == positions.entry.shape[0] else res
  if table is not None and table.entry.shape:
    rows, *width = table.entry.shape
    if rows == hf_config.num_rows(words, words) and hf.alike(table, words):
      entry = reader.Entry((words, *width), table.entry.dtype)  # The rest only pads it.
      changes[param_table.EMBEDDING].parts["whole"] = dataclasses.replace(table, entry=entry)
    else:
      words = rows
  return {**sizes, "llm": {**sizes["llm"], "vocab_size": words}, "res": res}


def _check_settings(settings: Mapping[str, Any], path: pathlib.Path) -> None:
  kind = settings.get("peft_type")
  if kind != "LORA":
    raise errors.CheckpointError(
      f"{path}: is a directory of PEFT adapters of the kind {kind!r}; only LORA (with rsLoRA and"
      " DoRA) can be merged. Merge them with PEFT (merge_and_unload) and save the model."
    )
  init = settings.get("init_lora_weights", True)
  if init not in _PLAIN_INIT:
    raise errors.CheckpointError(
      f"{path}: init_lora_weights is {init!r}, which changed the base before it trained, so the"
      " adapters fit no published base. Convert them with PEFT (path_initial_model_for_weight"
      "_conversion), or merge them there."
    )
  odd = sorted(key for key, value in settings.items() if value and key not in _KNOWN)
  if odd:
    raise errors.CheckpointError(
      f"{path}: {peft_export.CONFIG} sets {odd[0]}={str(settings[odd[0]])[:60]}, which is unknown"
      " and may change what the adapters do. Merge them with PEFT (merge_and_unload)."
    )
  for key in ("alpha_pattern", "rank_pattern"):
    if not isinstance(settings.get(key) or {}, dict):
      raise errors.CheckpointError(f"{path}: {key} is {str(settings[key])[:60]!r}, no table.")
