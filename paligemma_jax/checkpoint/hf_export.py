"""Weights out, as a Hugging Face directory that transformers loads: streamed and atomic."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import npz_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.data import tokenizer_files
from paligemma_jax.models import param_table

_SHARD_BYTES = 5 << 30


def save_hf(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  sizes: Mapping[str, Any],
  *,
  dtype: Any = None,
  image_token: int = 0,
  files: Mapping[str, bytes] | None = None,
  shard_bytes: int = _SHARD_BYTES,
) -> pathlib.Path:
  """Writes the directory `path`, which must not exist; it appears complete or not at all.

  It holds config.json and one or several safetensors under the names of the hub's files, and what
  the caller puts beside them. As in released files the embedding is padded to a multiple of 64 by
  its mean row, which is never the most probable token, so that the id of image tokens has a row.

  Args:
    params: {published name: array}.
    sizes: as in `params.sizes_of`.
    dtype: float32, bfloat16 or float16 of all of them; None keeps each one's own.
    image_token: the id that stands for image tokens; 0: the one of released files.
    files: content of further files, by their names.
    shard_bytes: a file is ended before it grows beyond this.

  Raises:
    CheckpointError: `path` exists, cannot be written, or the parameters do not fit the sizes.
  """
  path = pathlib.Path(path)
  param_table.only_published(params, str(path))
  param_table.check(
    {n: tuple(a.shape) for n, a in params.items()}, param_table.shapes(sizes), str(path)
  )
  image_token = image_token or default_image_token(sizes["llm"]["vocab_size"])
  rows = hf.num_rows(sizes["llm"]["vocab_size"], image_token)
  tensors = _tensors(params, sizes, dtype, rows)
  stored = np.result_type(*{t.entry.dtype for t in tensors.values()})
  with npz_export.new_folder(path) as folder:
    shards = _shards(tensors, shard_bytes)
    weight_map = {}
    for i, shard in enumerate(shards):
      last = f"{i + 1:05d}-of-{len(shards):05d}"
      file = "model.safetensors" if len(shards) == 1 else f"model-{last}.safetensors"
      blocks = {name: (tensors[name].entry, tensors[name].blocks()) for name in shard}
      safetensors.write(folder / file, blocks)
      weight_map.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
      total = sum(t.entry.num_bytes for t in tensors.values())
      index = {"metadata": {"total_size": total}, "weight_map": weight_map}
      atomic_io.write_new(folder / "model.safetensors.index.json", _json(index))
    config = hf_config.config_of(sizes, str(stored), image_token, rows)
    atomic_io.write_new(folder / "config.json", _json(config))
    for name, content in (files or {}).items():
      atomic_io.write_new(folder / name, content)
  return path


def default_image_token(vocab_size: int) -> int:
  """The id of image tokens where nothing says it: the released one, or the one behind the last."""
  return min(vocab_size, hf.RELEASED)


class _Tensor:
  """One of their tensors, made from a part of one of ours when it is written."""

  def __init__(self, name, array, layer, part, pattern, dims, dtype):
    self._name, self._array, self._layer, self._part = name, array, layer, part
    self._pattern, self._dims = pattern, dims
    shape = param_table.their_shape(pattern, dims)
    self.entry = reader.Entry(shape, npz_export.storable(array.dtype if dtype is None else dtype))

  def blocks(self) -> Iterator[np.ndarray]:
    """Its rows, in order."""
    ours = self._array
    if self._pattern == "V D -> V D":
      yield from self._embedding()
      return
    ours = ours if self._layer is None else ours[self._layer]
    ours = np.asarray(ours if self._part is None else ours[self._part])
    theirs = param_table.to_theirs(ours, self._pattern, self._dims)
    yield npz_export.as_stored(theirs, self.entry.dtype, self._name)

  def _embedding(self) -> Iterator[np.ndarray]:
    """The embedding in blocks, then its mean for each row of padding."""
    ours, total = self._array, 0.0
    step = reader.rows_per_block(tuple(ours.shape), ours.dtype.itemsize)
    for row in range(0, ours.shape[0], step):
      block = np.asarray(ours[row : row + step])
      total = total + block.sum(axis=0, dtype=np.float64)
      yield npz_export.as_stored(block, self.entry.dtype, self._name)
    spare = self.entry.shape[0] - ours.shape[0]
    mean = np.asarray(total / ours.shape[0], np.float32)[None]
    yield np.repeat(npz_export.as_stored(mean, self.entry.dtype, self._name), spare, axis=0)


def _tensors(params, sizes, dtype, rows) -> dict[str, _Tensor]:
  """{their name: _Tensor}; the embedding has `rows`."""
  dims = param_table.dims_of(sizes) | {"V": rows}
  tensors = {}
  for name, row in param_table.rows(sizes).items():
    array = params[name]
    layers = range(array.shape[0]) if "{i}" in row.hf[0] else (None,)
    for layer in layers:
      for part, their in enumerate(row.hf):
        index = part if len(row.hf) > 1 else None
        tensors[their.format(i=layer)] = _Tensor(name, array, layer, index, row.layout, dims, dtype)
  return tensors


def _shards(tensors: Mapping[str, _Tensor], shard_bytes: int) -> list[list[str]]:
  shards: list[list[str]] = [[]]
  used = 0
  for name, tensor in tensors.items():
    if shards[-1] and used + tensor.entry.num_bytes > shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += tensor.entry.num_bytes
  return shards


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
    sizes: of the model, as in `params.sizes_of`.
    tokenizer: of the model; None where none is known: then there are no files of it.
    source: what the weights were read from, if it is known.
  """
  vocab_size = sizes["llm"]["vocab_size"]
  image_token = _image_token(vocab_size, tokenizer, source)
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
    made |= _of_tokenizer(tokenizer, vocab_size, image_token)
  files = {**made, **files}
  for name in _SIZES:
    if name in files:
      files[name] = _resized(files[name], sizes["res"], num_tokens)
  return image_token, files


def _image_token(
  vocab_size: int, tokenizer: tokenizers.Tokenizer | None, source: reader.Weights | None
) -> int:
  if source is not None and source.image_token:
    return source.image_token
  if tokenizer is not None:
    for i in reversed(range(tokenizer.vocab_size)):
      if i and tokenizer.piece(i) == hf.IMAGE:
        return i
  return default_image_token(vocab_size)


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
    return content  # As the source has it; its readers will report it.
  for part in (settings, settings.get("image_processor")):
    if isinstance(part, dict):
      part.update({k: v for k, v in {"image_seq_length": num_tokens}.items() if k in part})
      if "size" in part:
        part["size"] = {"height": res, "width": res}
  return _json(settings)


def _of_tokenizer(
  tokenizer: tokenizers.Tokenizer, vocab_size: int, image_token: int
) -> dict[str, bytes]:
  files = {"tokenizer.model": tokenizer.whole_bytes}
  try:
    text = tokenizer_files.from_model(
      tokenizer.whole_bytes, num_ids=min(vocab_size, image_token), image_token=image_token
    )
    files["tokenizer.json"] = text.encode()
  except errors.ConfigError as e:
    logging.warning("no tokenizer.json is written, tokenizer.model alone: %s", e)
  added = tokenizer_files.added_tokens(tokenizer.whole_bytes, image_token)
  files["tokenizer_config.json"] = _json(
    {
      "add_bos_token": True,
      "add_eos_token": False,
      # Transformers 5 looks here and not into tokenizer.json.
      "added_tokens_decoder": {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added
      },
      "additional_special_tokens": [hf.IMAGE],
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
  files["special_tokens_map.json"] = _json({"additional_special_tokens": [hf.IMAGE], **special})
  files["added_tokens.json"] = _json({hf.IMAGE: image_token})
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


def _json(content: Mapping[str, Any]) -> bytes:
  return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
