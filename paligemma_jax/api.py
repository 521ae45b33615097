"""The Python API for trained weights: loads them, computes logits, generates text, saves them."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import hub
from paligemma_jax.checkpoint import load as load_lib
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.data import text_encoding
from paligemma_jax.data import tokenizer as tokenizer_lib
from paligemma_jax.decoding import generate as generate_lib
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.pp import image_input
from paligemma_jax.sources import annotated_images
from paligemma_jax.trainer import devices
from paligemma_jax.training import sharding

# Prompts are padded to a power of two, at least this, and small batches too, since a program is
# compiled for each (batch size, prompt length, new tokens).
_MIN_PROMPT = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The answer to one image and prompt.

  Attributes:
    text: the answer; '' when no tokenizer is known.
    tokens: its ids, with EOS if the model produced it.
    logprob: log-probability of these tokens, natural logarithm.
    token_logprobs: the log-probability of each of them.
  """

  text: str
  tokens: tuple[int, ...]
  logprob: float
  token_logprobs: tuple[float, ...]


class PaliGemma:
  """A model with its parameters and tokenizer.

  Attributes:
    config: models.variants.ModelConfig.
    params: {published name: jax.Array}.
    tokenizer: data.tokenizer.Tokenizer, or None.

  Args:
    source: the weights that were read, whose own files an export copies.
  """

  def __init__(
    self,
    config: variants.ModelConfig,
    params: Mapping[str, jax.Array],
    tokenizer: tokenizer_lib.Tokenizer | None = None,
    source: reader.Weights | None = None,
  ):
    if tokenizer and tokenizer.vocab_size > config.llm.vocab_size:
      raise errors.ConfigError(
        f"The tokenizer {tokenizer.path!r} has {tokenizer.vocab_size} ids but the model only"
        f" {config.llm.vocab_size}: they do not belong together."
      )
    self.config = config
    self.params = dict(params)
    self.tokenizer = tokenizer
    self._source = source
    self._warned = False
    self._logits = jax.jit(functools.partial(_logits, config))
    self._programs: dict[generate_lib.Options, Callable] = {}

  def logits(self, image: Any, tokens: Any, mask_ar: Any, mask_input: Any = None) -> jax.Array:
    """float32[B, T, V]: the logits of the next token at each text position.

    Args:
      image: uint8 or float in [-1, 1], [B, R, R, 3] or [B, F, R, R, 3] at the model's resolution,
        or None for text alone.
      tokens: int[B, T], BOS first.
      mask_ar: int[B, T]: 0 on the prompt, 1 on the answer and on padding.
      mask_input: int[B, T]: 0 hides a token (padding); None hides none.
    """
    tokens, mask_ar = (np.asarray(a, np.int32) for a in (tokens, mask_ar))
    mask_input = None if mask_input is None else np.asarray(mask_input, np.int32)
    for name, mask in (("mask_ar", mask_ar), ("mask_input", mask_input)):
      if mask is not None and mask.shape != tokens.shape:
        raise errors.ConfigError(
          f"{name} has the shape {list(mask.shape)}, tokens {list(tokens.shape)}; expected equal."
        )
    self._check_ids(tokens)
    image = None if image is None else image_input.check_range(np.asarray(image))
    return self._logits(self.params, image, tokens, mask_ar, mask_input)

  def generate(
    self,
    images: Any,
    prompts: str | Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int = 64,
    sampler: str = "greedy",
    seed: int = 0,
    batch_size: int = 8,
    best_of: int = 1,
    beam_size: int = 1,
    banned: Sequence[str | int] = (),
    constraint: Any = None,
    rows: Sequence[int] = (),
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] = (),
    exif: bool | str = True,
  ) -> list[Prediction]:
    """One Prediction per image and prompt, in order.

    Args:
      images: per prompt a path, encoded bytes, an open file, a PIL image, uint8[H, W, 3] of any
        size, or float in [-1, 1] at the model's resolution; a list of those for a model of several
        images; None for text alone. A single image, or None, is used for all prompts.
      prompts: per image a text, or a list of token ids with BOS and separator. A single text is
        used for all images.
      max_new_tokens: the most tokens of an answer.
      sampler: see decoding.search.sampler.
      seed: of random sampling, which depends on it and on the index of the prompt.
      rows: the indices of the prompts in a longer list; () counts from 0.
      batch_size: prompts that are on the device together.
      best_of: answers to sample per prompt, of which the most probable is returned.
      beam_size: above 1: beam search, see decoding.search.by_beams.
      banned: tokens that no answer may hold: texts of one token each ('<eos>' too), or ids.
      constraint: the form of an answer, as `constraints.OneOf(("yes", "no"))`; None: any.
      temperature, top_k, top_p, repetition_penalty, stop: see core.sampling_options. Returned
        log-probabilities are without the penalty, and `tokens` include the stop text.
      exif: whether to rotate images upright by EXIF; see image_input.read.

    Raises:
      ConfigError: different numbers of images and prompts, text without a tokenizer, or options
        that are wrong or exclude each other.
      DataError: an image cannot be read.
      OutOfMemoryError: the device has too little memory.
    """
    annotated_images.check_exif("generate", exif)
    images, prompts = _paired(images, prompts)
    self._warn_of_markers(prompts)
    ids = [self._prompt_ids(prompt) for prompt in prompts]
    if len(images) != len(ids):
      raise errors.ConfigError(f"There are {len(images)} images but {len(ids)} prompts.")
    if not ids:
      return []
    if min(max_new_tokens, batch_size) < 1:
      raise errors.ConfigError(f"{max_new_tokens=} and {batch_size=} must be at least 1.")
    places = np.asarray(rows, np.int64) if len(rows) else np.arange(len(ids))
    if len(places) != len(ids):
      raise errors.ConfigError(f"There are {len(places)} rows but {len(ids)} prompts.")
    text_len = _bucket(max(map(len, ids)), _MIN_PROMPT)
    how = generate_lib.Options(
        max_new_tokens, sampler, best_of, beam_size, tuple(banned), constraint, temperature, top_k,
        top_p, repetition_penalty, cast(Any, stop),
    )  # fmt: skip
    if how not in self._programs:
      self._programs[how] = generate_lib.make_generate(self.config, how, self.tokenizer)
    predictions: dict[int, Prediction] = {}
    groups: dict[tuple, list[int]] = {}  # Indices of images that can be in one batch.
    for i, image in enumerate(images):
      groups.setdefault(image_input.form(image), []).append(i)
    for alike in groups.values():
      num_rows = min(batch_size, _bucket(len(alike), 1))
      for start in range(0, len(alike), num_rows):
        part = alike[start : start + num_rows]
        batch = self._batch(
          [images[i] for i in part], [ids[i] for i in part], num_rows, text_len, exif
        )
        batch["_row"] = np.resize(places[part], num_rows)
        smaller = functools.partial(_smaller, num_rows, max_new_tokens, max(best_of, beam_size))
        with devices.explained(smaller):
          out = jax.device_get(self._programs[how](self.params, batch, jax.random.key(seed)))
        predictions |= {i: self._prediction(out, row, how.stop) for row, i in enumerate(part)}
    return [predictions[i] for i in range(len(ids))]

  def save(
    self, path: str | os.PathLike, format: str = "native", dtype: str | None = None
  ) -> pathlib.Path:
    """Writes the weights to `path`, which appears only when they are complete; returns it.

    Args:
      format: "native", a directory with sizes and tokenizer; "npz", the published format (with a
        small file beside it for sizes that it cannot hold); or "hf", a directory for transformers,
        with processor, tokenizer and a model card.
      dtype: "float32", "bfloat16" or "float16"; None keeps the present one.
    """
    return export.save(
      path,
      self.params,
      opening.sizes_of(self.config),
      format=format,
      dtype=dtype,
      tokenizer=self.tokenizer,
      source=self._source,
    )

  def _warn_of_markers(self, prompts: Sequence[str | Sequence[int]]) -> None:
    """Warns once of prompts with texts that other programs take for markers."""
    found = [w for p in prompts if isinstance(p, str) and (w := text_encoding.warning(p))]
    if found and not self._warned:
      self._warned = True
      logging.warning("%s (%d of %d prompts)", found[0], len(found), len(prompts))

  def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
    if isinstance(prompt, str):
      if self.tokenizer is None:
        raise errors.ConfigError(
          "No tokenizer was found with the weights, so prompts cannot be text: put"
          f" tokenizer.model (or {hub.TOKENIZER}) beside them, or load(…, tokenizer=PATH)."
        )
      return text_encoding.prefix_ids(self.tokenizer, prompt)
    ids = [int(i) for i in prompt]
    if not ids:
      raise errors.ConfigError("A prompt has no token ids; it needs at least BOS.")
    self._check_ids(np.array(ids))
    return ids

  def _check_ids(self, ids: np.ndarray) -> None:
    vocab_size = self.config.llm.vocab_size
    if ids.size and not (0 <= ids.min() and ids.max() < vocab_size):
      raise errors.ConfigError(
        f"Token ids from {ids.min()} to {ids.max()}; the model has 0 to {vocab_size - 1}."
      )

  def _batch(
    self, images: list[Any], prompts: list[list[int]], num_rows: int, text_len: int, exif: Any
  ) -> dict[str, np.ndarray]:
    rows: Any = [  # No prompt is dropped with overflow="error".
      text_encoding.lay_out_prompt(ids, [], text_len=text_len, overflow="error") for ids in prompts
    ]
    spare = num_rows - len(prompts)
    # Padding repeats the last row, since a row without tokens has no well-defined logits.
    batch = {name: np.stack([r[name] for r in rows + rows[-1:] * spare]) for name in rows[0]}
    if images[0] is not None:
      pixels = [image_input.read(image, self.config.res, exif=exif) for image in images]
      batch["image"] = np.stack(pixels + pixels[-1:] * spare)
    batch["_mask"] = np.arange(num_rows) < len(prompts)
    return batch

  def _prediction(
    self, out: Mapping[str, np.ndarray], row: int, stop: str | tuple[str, ...]
  ) -> Prediction:
    num = int(out["lengths"][row])
    tokens, logprobs = (out[name][row, :num].tolist() for name in ("tokens", "token_logprob"))
    answer = generate_lib.answer(self.tokenizer, tokens, float(out["logprob"][row]), logprobs, stop)
    return Prediction(*answer)


def load(
  path: str | os.PathLike,
  *,
  dtype: str = "bfloat16",
  tokenizer: str | os.PathLike | tokenizer_lib.Tokenizer | None = None,
  mesh: jax.sharding.Mesh | None = None,
  res: int = 0,
  overrides: Mapping[str, Any] | None = None,
  base: str | os.PathLike = "",
) -> PaliGemma:
  """Loads the model of a checkpoint and infers its sizes.

  Args:
    path: one of our run, checkpoint or weight directories, a big_vision npz, a Hugging Face
      directory, a directory of PEFT adapters (merged into their base), a published name ('pt_224';
      see checkpoint.hub), or an id on the Hugging Face hub ('google/paligemma2-3b-pt-224').
    dtype: "bfloat16" or "float32", of parameters and matmuls.
    tokenizer: a SentencePiece file, a tokenizer.json, or a Tokenizer; None: that of the weights.
    mesh: its "fsdp" axis shards the parameters; None puts all on the first device.
    res: pixels, to which the position embedding is resampled; 0 keeps the weights' own.
    overrides: sizes that the file does not have, as {"llm.final_softcap": 30.0}.
    base: of PEFT adapters; "": the one that they name.

  Raises:
    CheckpointError: no weights at `path`, damaged or hostile files, or weights of another model.
    OutOfMemoryError: the device has too little memory.
  """

  def read() -> PaliGemma:
    weights = opening.open_weights(path, base=base)
    config = opening.config_of(weights.sizes, dtype=dtype, res=res, overrides=overrides)
    shapes = paligemma.param_shapes(config)
    shardings = None if mesh is None else sharding.param_shardings(shapes, mesh)
    params = load_lib.load_params(
      weights, shapes, dtype=jnp.dtype(dtype), shardings=shardings, log=logging.info
    )
    found = weights.tokenizer if tokenizer is None else tokenizer
    if found is not None and not isinstance(found, tokenizer_lib.Tokenizer):
      found = tokenizer_lib.Tokenizer(os.fspath(found))
    return PaliGemma(config, params, found, weights)

  remedies = ["dtype=bfloat16"] if dtype != "bfloat16" else []
  remedies.append("a device with more memory" if mesh else "a mesh of several devices")
  with devices.explained(lambda: remedies):
    return opening.read_steadily(path, read)


def _paired(images: Any, prompts: Any) -> tuple[Sequence[Any], Sequence[Any]]:
  """Lists of both, where a single image or text is repeated."""
  one_image = images is None or image_input.is_one(images)
  if isinstance(prompts, str):
    prompts = [prompts] * (1 if one_image else len(images))
  if one_image:
    images = [images] * len(prompts)
  return images, prompts


def _smaller(num_rows: int, max_new_tokens: int, num_answers: int) -> list[str]:
  """Options of `generate` that take less memory, the cheapest first."""
  words = [f"batch_size={num_rows // 2}"] if num_rows > 1 else []
  if num_answers > 1:
    words.append("a smaller beam_size or best_of")
  return [*words, f"max_new_tokens below {max_new_tokens}", "a smaller res"]


def _logits(config, params, image, tokens, mask_ar, mask_input):
  x_BTD = paligemma.text_features(config, params, image, tokens, mask_ar, mask_input_BT=mask_input)
  return paligemma.logits(config, params, x_BTD)


def _bucket(size: int, smallest: int) -> int:
  """The next power of two, at least `smallest`."""
  return max(smallest, 1 << (size - 1).bit_length())
