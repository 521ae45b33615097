"""Generation: the prompt, then a loop on the device that stops when every row is done.

B rows, A answers per row, R = B * A, C cache slots, T prompt tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import sampling_options
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import constraints
from paligemma_jax.decoding import search
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants

_INPUTS = ("image", "text", "mask_ar", "mask_input", "_mask", "_row")

Generate = Callable[..., dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Options:
  """The decoding options of evaluators and `PaliGemma.generate`; see there.

  Raises:
    ConfigError: `core.sampling_options` finds something wrong, or options exclude each other.
  """

  max_new_tokens: int
  sampler: str = "greedy"
  best_of: int = 1
  beam_size: int = 1
  banned: tuple[str | int, ...] = ()
  constraint: Any = None
  temperature: float | None = None
  top_k: int = 0
  top_p: float = 1.0
  repetition_penalty: float = 1.0
  stop: str | tuple[str, ...] = ()

  def __post_init__(self):
    sampling_options.check(self)
    object.__setattr__(self, "stop", sampling_options.texts(self.stop))
    sampler, best_of = sampling_options.sampler(self), self.best_of
    beam_size, repetition_penalty = self.beam_size, self.repetition_penalty
    if beam_size > 1 and repetition_penalty != 1.0:
      raise errors.ConfigError(f"{beam_size=} searches without {repetition_penalty=}: choose one.")
    for name, value in (("best_of", best_of), ("beam_size", beam_size)):
      if type(value) is not int or value < 1:
        raise errors.ConfigError(f"{name}={value!r} must be a whole number of at least 1.")
    greedy = sampler.strip() == "greedy"
    if beam_size > 1 and (best_of > 1 or not greedy):
      raise errors.ConfigError(
        f"{beam_size=} searches, {sampler=} and {best_of=} draw: choose one of them."
      )
    if best_of > 1 and greedy:
      raise errors.ConfigError(
        f"{best_of=} greedy answers are all the same; draw them, as by temperature=0.7."
      )


def make_generate(
  model_config: variants.ModelConfig,
  options: Options,
  tokenizer: tokenizers.Tokenizer | None = None,
  *,
  eos_id: int = tokenizers.EOS_ID,
  cache_dtype: Any = None,
) -> Generate:
  """`generate(params, batch, key=None)`, one compiled program per batch shape.

  The batch is a decode batch: image, text, mask_ar, mask_input; rows where `_mask` is False stay
  empty and do not delay the stop. Other entries are ignored. Prompts may be padded on the right,
  and may end in a part of the answer (mask_ar 1). Without images, leave out `image`.

  `key` seeds sampling; a row's draws depend on the key and its `_row` number (its place in the
  batch when absent) alone, not on the batch's other rows. Greedy decoding needs none.

  It returns
    tokens         int32[B, N], the answer with its EOS, then pad 0
    lengths        int32[B], tokens in the answer, with EOS
    token_logprob  float32[B, N], log-probability of each under the model, whatever the sampler and
                   the rules: log_softmax of the logits with the final softcap if any; then 0
    logprob        float32[B], their sum

  Args:
    cache_dtype: of cached keys and values; None is the compute dtype.

  Raises:
    ConfigError: options that are unknown, or need a tokenizer where none is.
  """
  banned = tuple(_token_id(token, model_config, tokenizer) for token in options.banned)
  automaton: constraints.Automaton | None = None
  if options.constraint is not None:
    if tokenizer is None:
      raise errors.ConfigError("A constraint needs a tokenizer; none was found with the weights.")
    automaton = constraints.automaton(
      options.constraint, tokenizer, max_new_tokens=options.max_new_tokens, banned=banned
    )
  rules = constraints.Rules(banned, automaton)
  ends: tuple[int, ...] = (eos_id,)
  if options.stop:
    if tokenizer is None:
      raise errors.ConfigError("stop= needs a tokenizer; none was found with the weights.")
    # Tokens that contain one of the texts: at each of them the device may stop.
    pieces = enumerate(map(tokenizer.text_of, range(tokenizer.vocab_size)))
    ends += tuple(i for i, piece in pieces if any(text in piece for text in options.stop))
  penalty, num_answers = options.repetition_penalty, max(options.best_of, options.beam_size)
  if options.beam_size > 1:
    ends = (eos_id,)  # A beam search goes on to EOS.
    find = search.by_beams(rules, eos_id, options.beam_size)
  else:
    choose = search.sampler(sampling_options.sampler(options))
    find = search.by_sampling(rules, ends, options.best_of, choose, repetition_penalty=penalty)

  @jax.jit
  def run(params, batch, key):
    text_BT, mask_input_BT = batch["text"], batch["mask_input"]
    image = batch.get("image")
    batch_size, prompt_len = text_BT.shape
    if image is not None:
      prompt_len += (image.shape[1] if image.ndim == 5 else 1) * model_config.num_image_tokens
    rows_B = jnp.asarray(batch.get("_row", jnp.arange(batch_size))).astype(jnp.uint32)
    mask_B = batch.get("_mask")
    logits_BV, cache = paligemma.prefill(
      model_config,
      params,
      image,
      text_BT,
      batch["mask_ar"],
      mask_input_BT,
      # The last new tokens are never fed back.
      cache_len=prompt_len + num_answers * (options.max_new_tokens - 1),
      cache_dtype=cache_dtype,
    )
    seen_BV = None
    if penalty != 1.0:
      rows_B1, seen_BV = jnp.arange(batch_size)[:, None], jnp.zeros(logits_BV.shape, bool)
      seen_BV = seen_BV.at[rows_B1, text_BT].max(mask_input_BT.astype(bool))
    prompt = search.Prompt(
      logits_BV=logits_BV,
      cache=cache,
      real_B=jnp.ones(batch_size, bool) if mask_B is None else mask_B.astype(bool),
      keys_B=jax.vmap(jax.random.fold_in, (None, 0))(key, rows_B),
      seen_BV=seen_BV,
    )

    def extend(token_BA, cache, own_BAS):
      """`own_BAS`: the slots behind the prompt that an answer attends to; None: all."""
      if own_BAS is not None:
        own_BAS = jnp.pad(own_BAS, [(0, 0), (0, 0), (prompt_len, 0)], constant_values=True)
      return paligemma.extend(model_config, params, token_BA, cache, own_BAS)

    tokens_BN, logprob_BN = find(prompt, extend, options.max_new_tokens)
    return {
      "tokens": tokens_BN,
      "lengths": _lengths(tokens_BN, ends, prompt.real_B),
      "token_logprob": logprob_BN,
      "logprob": jnp.sum(logprob_BN, axis=1),
    }

  def generate(params, batch, key=None):
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    return run(dict(params), inputs, jax.random.key(0) if key is None else key)

  return generate


def _lengths(tokens_BN, ends, real_B):
  """int32[B]: up to and with the first token that ends an answer; all where there is none."""
  is_end_BN = jnp.isin(tokens_BN, np.asarray(ends, np.int32))
  num_tokens = tokens_BN.shape[1]
  length_B = jnp.where(is_end_BN.any(1), jnp.argmax(is_end_BN, axis=1) + 1, num_tokens)
  return jnp.where(real_B, length_B, 0).astype(jnp.int32)


class Answer(NamedTuple):
  """A decoded answer that ends before the first of the stop strings."""

  text: str
  tokens: tuple[int, ...]
  logprob: float
  token_logprobs: tuple[float, ...]


def answer(
  tokenizer: tokenizers.Tokenizer | None,
  tokens: Sequence[int],
  logprob: float,
  token_logprobs: Sequence[float],
  stop: str | tuple[str, ...],
) -> Answer:
  """The answer in decoded tokens; its tokens hold the stop string that was met.

  Args:
    tokenizer: None where none is known; the text is then ''.
    logprob: the sum of `token_logprobs`, unchanged where nothing is cut.
  """
  if tokenizer is None:
    return Answer("", tuple(tokens), logprob, tuple(token_logprobs))
  text = tokenizer.decode(tokens)
  found = [(at, word) for word in sampling_options.texts(stop) if (at := text.find(word)) >= 0]
  if found:
    at, word = min(found, key=lambda place: (place[0], len(place[1])))
    ends = tokenizer.ends(tokens)
    num = next(i + 1 for i, end in enumerate(ends) if end >= at + len(word))
    if num < len(tokens):
      tokens, token_logprobs = tokens[:num], token_logprobs[:num]
      logprob = math.fsum(token_logprobs)
    text = text[:at]
  return Answer(text, tuple(tokens), logprob, tuple(token_logprobs))


def _token_id(
  token: str | int, model_config: variants.ModelConfig, tokenizer: tokenizers.Tokenizer | None
) -> int:
  if not isinstance(token, str):
    if not 0 <= token < model_config.llm.vocab_size:
      raise errors.ConfigError(
        f"banned: token id {token}; the model knows 0 to {model_config.llm.vocab_size - 1}."
      )
    return int(token)
  if tokenizer is None:
    raise errors.ConfigError(
      f"banned: {token!r} needs a tokenizer; none was found with the weights. Give its id."
    )
  try:
    return tokenizer.token_id(token)
  except errors.ConfigError as e:
    raise errors.ConfigError(f"banned: {e}") from None
