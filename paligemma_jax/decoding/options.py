"""How answers are decoded, in words: texts of tokens, a sampler's name, a constraint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from paligemma_jax.core import errors
from paligemma_jax.core import sampling_options
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import constraints
from paligemma_jax.decoding import generate
from paligemma_jax.models import variants


@dataclasses.dataclass(frozen=True)
class Options:
  """What evaluators and `PaliGemma.generate` are asked for; see there.

  Raises:
    ConfigError: `core.sampling_options` finds something wrong.
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


class Answer(NamedTuple):
  """A decoded answer that ends before the first of the stop strings."""

  text: str
  tokens: tuple[int, ...]
  logprob: float
  token_logprobs: tuple[float, ...]


def make_generate(
  model_config: variants.ModelConfig, options: Options, tokenizer: tokenizers.Tokenizer | None
) -> generate.Generate:
  """`generate.make_generate`, with what the options say about texts looked up in the tokenizer.

  Raises:
    ConfigError: options that are unknown, exclude each other, or need a tokenizer where none is.
  """
  banned = tuple(_token_id(token, model_config, tokenizer) for token in options.banned)
  automaton = None
  if options.constraint is not None:
    if tokenizer is None:
      raise errors.ConfigError("A constraint needs a tokenizer; none was found with the weights.")
    automaton = constraints.automaton(
      options.constraint, tokenizer, max_new_tokens=options.max_new_tokens, banned=banned
    )
  if options.stop and tokenizer is None:
    raise errors.ConfigError("stop= needs a tokenizer; none was found with the weights.")
  return generate.make_generate(
    model_config,
    max_new_tokens=options.max_new_tokens,
    eos_id=tokenizers.EOS_ID,
    sampler=sampling_options.sampler(options),
    best_of=options.best_of,
    beam_size=options.beam_size,
    banned=banned,
    automaton=automaton,
    ends=_ending(options.stop, tokenizer) if options.stop else (),
    repetition_penalty=options.repetition_penalty,
  )


def answer(
  tokenizer: tokenizers.Tokenizer | None,
  tokens: Sequence[int],
  logprob: float,
  token_logprobs: Sequence[float],
  stop: str | Sequence[str],
) -> Answer:
  """The answer in decoded tokens; its tokens hold the stop string that was met.

  Args:
    tokenizer: None where none is known; the text is then ''.
    logprob: the sum of `token_logprobs`, kept where nothing is cut.
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


def _ending(stop: Sequence[str], tokenizer: tokenizers.Tokenizer) -> tuple[int, ...]:
  """The tokens that hold one of these texts whole, so that the device may stop at them."""
  texts = ((i, tokenizer.text_of(i)) for i in range(tokenizer.vocab_size))
  return tuple(i for i, text in texts if any(word in text for word in stop))


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
