"""What lies beside the weights in a Hugging Face directory: processor, tokenizer, model card.

A directory that the weights came from gives its own files; what it has not is made. With them
`AutoProcessor.from_pretrained(directory)` gives the model's own ids and pixels.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from paligemma_jax.checkpoint import hf_export
from paligemma_jax.checkpoint import hf_vocabulary
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.data import tokenizer_json

_CARRIED = (".json", ".model", ".txt", ".md", ".jinja")
_BY_NAME = ("LICENSE", "NOTICE")
_MAX_BYTES = 64 << 20  # Of one that is carried over; Gemma's tokenizer.json has up to 35 MB.
_MADE_ANEW = ("config.json", "SEAL.json", "adapter_config.json", "training_args.json")
_TOKENIZER = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
_SIZES = ("preprocessor_config.json", "processor_config.json")  # They say the size of images.


def make(
  sizes: Mapping[str, Any],
  tokenizer: tokenizers.Tokenizer | None,
  source: reader.Weights | None = None,
) -> tuple[int, dict[str, bytes]]:
  """The id of image tokens, and {name: content} of the files.

  Args:
    sizes: of the model, as in `names.sizes_of`.
    tokenizer: of the model; None where none is known: then there are no files of it.
    source: what the weights were read from, if it is known.
  """
  num_words = sizes["llm"]["vocab_size"]
  image_token = _image_token(num_words, tokenizer, source)
  files = _carried(source.folder) if source and source.folder else {}
  own = source is not None and tokenizer is not None and str(source.tokenizer) == tokenizer.path
  if tokenizer is not None and not own:
    for name in _TOKENIZER:
      files.pop(name, None)
  num_tokens = (sizes["res"] // sizes["img"]["patch_size"]) ** 2
  made = {
    "generation_config.json": _json(
      {
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        **({"cache_implementation": "hybrid"} if sizes["llm"]["post_norms"] else {}),
      }
    ),
    "preprocessor_config.json": _json(_preprocessor(sizes["res"], num_tokens)),
    "README.md": _card(sizes).encode(),
  }
  if tokenizer is not None:
    made |= _of_tokenizer(tokenizer, num_words, image_token)
  files = {**made, **files}
  for name in _SIZES:
    if name in files:
      files[name] = _resized(files[name], sizes["res"], num_tokens)
  return image_token, files


def _image_token(
  num_words: int, tokenizer: tokenizers.Tokenizer | None, source: reader.Weights | None
) -> int:
  if source is not None and source.image_token:
    return source.image_token
  pieces = [] if tokenizer is None else range(tokenizer.vocab_size - 1, -1, -1)
  behind = (i for i in pieces if tokenizer.piece(i) == hf_vocabulary.IMAGE)
  return next(behind, 0) or hf_export.default_image_token(num_words)


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


def _preprocessor(res: int, num_tokens: int) -> dict[str, Any]:
  return {
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
    "size": {"height": res, "width": res},
  }


def _resized(content: bytes, res: int, num_tokens: int) -> bytes:
  """A processor's settings for the model's resolution, if they are of another one."""
  try:
    settings = strict_json.parse_object(content)
  except strict_json.Malformed:
    return content  # Of the source; whoever reads it will say so.
  for part in (settings, settings.get("image_processor")):
    if isinstance(part, dict):
      part.update({k: v for k, v in {"image_seq_length": num_tokens}.items() if k in part})
      if "size" in part:
        part["size"] = {"height": res, "width": res}
  return _json(settings)


def _of_tokenizer(
  tokenizer: tokenizers.Tokenizer, num_words: int, image_token: int
) -> dict[str, bytes]:
  files = {"tokenizer.model": tokenizer.whole_bytes}
  try:
    text = tokenizer_json.from_model(
      tokenizer.whole_bytes, num_ids=min(num_words, image_token), image_token=image_token
    )
    files["tokenizer.json"] = text.encode()
  except errors.ConfigError as e:
    logging.warning("no tokenizer.json is written, tokenizer.model alone: %s", e)
  added = tokenizer_json.added_tokens(tokenizer.whole_bytes, image_token)
  files["tokenizer_config.json"] = _json(
    {
      "add_bos_token": True,
      "add_eos_token": False,
      # Transformers 5 looks here and not into tokenizer.json.
      "added_tokens_decoder": {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added
      },
      "additional_special_tokens": [hf_vocabulary.IMAGE],
      "bos_token": "<bos>",
      "clean_up_tokenization_spaces": False,
      "eos_token": "<eos>",
      "model_max_length": 1000000000000000019884624838656,
      "pad_token": "<pad>",
      "processor_class": "PaliGemmaProcessor",
      "spaces_between_special_tokens": False,
      "tokenizer_class": "GemmaTokenizer",
      "unk_token": "<unk>",
      "use_default_system_prompt": False,
    }
  )
  special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
  files["special_tokens_map.json"] = _json(
    {"additional_special_tokens": [hf_vocabulary.IMAGE], **special}
  )
  files["added_tokens.json"] = _json({hf_vocabulary.IMAGE: image_token})
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

Weights in the form of Hugging Face transformers, written by paligemma_jax. Whoever made them says
here what they were trained on, and under which terms they may be used: those of the weights that
training began with go on.

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


def _json(content: Mapping[str, Any]) -> bytes:
  return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
