"""The small files of a Hugging Face directory: config.json, read and written, and all beside it.

What a config.json asks for and we do not compute is refused.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import logging

from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.data import tokenizer_files

if TYPE_CHECKING:  # Its package takes a while to import.
  from paligemma_jax.data import tokenizer as tokenizers

IMAGE = "<image>"
RELEASED = 257_152  # Tokens of the released vocabulary, and the id of the image token behind it.
KEY = "_vocab_size"  # Of config.json, as in released files.
_MULTIPLE = 64

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
# {our size: their key}.
_IMG = {
  "width": "hidden_size",
  "depth": "num_hidden_layers",
  "mlp_dim": "intermediate_size",
  "num_heads": "num_attention_heads",
  "patch_size": "patch_size",
}
_LLM = {
  "width": "hidden_size",
  "depth": "num_hidden_layers",
  "mlp_dim": "intermediate_size",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "head_dim": "head_dim",
}
_SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
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
  """The sizes as in `param_table.sizes_of`; the vocabulary is as stored, padding included.

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
    "img": {ours: img[theirs] for ours, theirs in _IMG.items()},
    "llm": {
      **{ours: llm[theirs] for ours, theirs in _LLM.items()},
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
    **{theirs: llm[ours] for ours, theirs in _LLM.items()},
    "vocab_size": rows,
    "num_image_tokens": num_image_tokens,
    "hidden_activation": "gelu_pytorch_tanh",
    "torch_dtype": dtype,
    **_SPECIAL,
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
    **{theirs: img[ours] for ours, theirs in _IMG.items()},
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
    KEY: llm["vocab_size"],
    "tie_word_embeddings": True,
    **_SPECIAL,
    "text_config": text,
    "vision_config": vision,
  }


def num_rows(vocab_size: int, image_token: int) -> int:
  """How many rows an export's embedding has: one for the image token too, padded."""
  needed = max(vocab_size, image_token + 1)
  return needed if image_token < vocab_size else -(-needed // _MULTIPLE) * _MULTIPLE


def default_image_token(vocab_size: int) -> int:
  """The id of image tokens where nothing says it: the released one, or the one behind the last."""
  return min(vocab_size, RELEASED)


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
    value, wrong = section[key], ""
    most = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_SIZE
    if value is None and (key == "sliding_window" or key.endswith("softcapping")):
      continue
    if type(default) is int and not (type(value) is int and 0 < value <= most):
      wrong = f", not a whole number from 1 to {most}"
    elif key in _ONE_WAY and value not in _ONE_WAY[key]:
      wrong = f"; the model computes {_ONE_WAY[key][-1]!r} only"
    elif key.endswith("softcapping"):
      # The comparison is false of NaN too.
      if type(value) not in (int, float) or not 0 <= value < _MAX_SOFTCAP:
        wrong = f"; expected null or a number from 0 to {_MAX_SOFTCAP:g}"
    if wrong:
      raise errors.CheckpointError(f"{where}: {name}.{key} is {value!r}{wrong}.")
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


_CARRIED = (".json", ".model", ".txt", ".md", ".jinja")
_BY_NAME = ("LICENSE", "NOTICE")
_MAX_BYTES = 64 << 20  # Of one that is carried over; Gemma's tokenizer.json has up to 35 MB.
_MADE_ANEW = ("config.json", "SEAL.json", "adapter_config.json", "training_args.json")
_TOKENIZER = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
_SIZES = ("preprocessor_config.json", "processor_config.json")  # They say the size of images.


def other_files(
  sizes: Mapping[str, Any],
  tokenizer: tokenizers.Tokenizer | None,
  source: reader.Weights | None = None,
) -> tuple[int, dict[str, bytes]]:
  """The id of image tokens, and {name: content} of the files.

  Args:
    sizes: of the model, as in `param_table.sizes_of`.
    tokenizer: of the model; None where none is known: then there are no files of it.
    source: what the weights were read from, if it is known.
  """
  vocab_size = sizes["llm"]["vocab_size"]
  image_token = source.image_token if source else 0
  if tokenizer is not None and not image_token:
    ids = reversed(range(1, tokenizer.vocab_size))
    image_token = next((i for i in ids if tokenizer.piece(i) == IMAGE), 0)
  image_token = image_token or default_image_token(vocab_size)
  files = _carried(source.folder) if source and source.folder else {}
  own = source is not None and tokenizer is not None and str(source.tokenizer) == tokenizer.path
  if tokenizer is not None and not own:
    for name in _TOKENIZER:
      files.pop(name, None)
  num_tokens = (sizes["res"] // sizes["img"]["patch_size"]) ** 2
  hybrid = {"cache_implementation": "hybrid"} if sizes["llm"]["post_norms"] else {}
  made = {
    "generation_config.json": to_json(_SPECIAL | hybrid),
    "preprocessor_config.json": to_json(
      {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": num_tokens,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "PaliGemmaProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": sizes["res"], "width": sizes["res"]},
      }
    ),
    "README.md": _card(sizes).encode(),
  }
  if tokenizer is not None:
    made |= _of_tokenizer(tokenizer, vocab_size, image_token)
  files = {**made, **files}
  for name in _SIZES:
    if name in files:
      files[name] = _resized(files[name], sizes["res"], num_tokens)
  return image_token, files


def _carried(folder: pathlib.Path) -> dict[str, bytes]:
  """The small files of a source directory that are not made anew: regular ones of known kinds."""
  files = {}
  for path in sorted(folder.iterdir()):
    known = path.suffix in _CARRIED or path.name in _BY_NAME
    made = path.name in _MADE_ANEW or path.name.endswith(".index.json")
    if known and not made and not path.name.startswith(".") and path.is_file():
      try:
        files[path.name] = atomic_io.read(path, max_bytes=_MAX_BYTES)
      except (OSError, ValueError) as e:
        logging.warning("%s: is not carried over: %s", path, strict_json.reason(e))
  return files


def _resized(content: bytes, res: int, num_tokens: int) -> bytes:
  """A processor's settings for the model's resolution, if they are of another one."""
  try:
    settings = strict_json.parse_object(content)
  except strict_json.Malformed:
    return content  # As the source has it; its readers will report it.
  own = {"image_seq_length": num_tokens, "size": {"height": res, "width": res}}
  for part in (settings, settings.get("image_processor")):
    if isinstance(part, dict):
      part.update({key: value for key, value in own.items() if key in part})
  return to_json(settings)


def _of_tokenizer(
  tokenizer: tokenizers.Tokenizer, vocab_size: int, image_token: int
) -> dict[str, bytes]:
  names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
  special = {**names, "additional_special_tokens": [IMAGE]}
  files = {"tokenizer.model": tokenizer.whole_bytes}
  try:
    text = tokenizer_files.from_model(
      tokenizer.whole_bytes, num_ids=min(vocab_size, image_token), image_token=image_token
    )
    files["tokenizer.json"] = text.encode()
  except errors.ConfigError as e:
    logging.warning("no tokenizer.json is written, tokenizer.model alone: %s", e)
  added = tokenizer_files.added_tokens(tokenizer.whole_bytes, image_token)
  files["tokenizer_config.json"] = to_json(
    {
      "add_bos_token": True,
      "add_eos_token": False,
      # Transformers 5 looks here and not into tokenizer.json.
      "added_tokens_decoder": {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added
      },
      **special,
      "clean_up_tokenization_spaces": False,
      "model_max_length": 1000000000000000019884624838656,
      "processor_class": "PaliGemmaProcessor",
      "spaces_between_special_tokens": False,
      "tokenizer_class": "GemmaTokenizer",
      "use_default_system_prompt": False,
    }
  )
  files["special_tokens_map.json"] = to_json(special)
  files["added_tokens.json"] = to_json({IMAGE: image_token})
  return files


def _card(sizes: Mapping[str, Any]) -> str:
  name = "PaliGemma 2" if sizes["llm"]["post_norms"] else "PaliGemma"
  return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- paligemma
---
# A {name} at {sizes["res"]} px

Weights in the form of Hugging Face transformers, written by paligemma_jax. Add here what they were
trained on and their terms of use: those of the initial weights still apply.

```python
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

path = "."  # This folder.
processor = AutoProcessor.from_pretrained(path)
model = PaliGemmaForConditionalGeneration.from_pretrained(path)
inputs = processor(images=Image.open("a.jpg"), text="<image>caption en", return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=32)[0], skip_special_tokens=True))
```
"""


def to_json(content: Mapping[str, Any]) -> bytes:
  return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
