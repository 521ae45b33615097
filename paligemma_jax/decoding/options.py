"""How answers are decoded, in words: texts of tokens, a sampler's name, a constraint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import constraints
from paligemma_jax.decoding import generate
from paligemma_jax.models import variants


@dataclasses.dataclass(frozen=True)
class Options:
  """What evaluators and `PaliGemma.generate` are asked for; see there."""

  max_new_tokens: int
  sampler: str = "greedy"
  best_of: int = 1
  beam_size: int = 1
  banned: tuple[str | int, ...] = ()
  constraint: Any = None
  stop: tuple[str, ...] = ()
  repetition_penalty: float = 1.0


def make_generate(
  cfg: variants.ModelConfig, options: Options, tokenizer: tokenizers.Tokenizer | None
) -> generate.Generate:
  """`generate.make_generate`, with what the options say about texts looked up in the tokenizer.

  Raises:
    ConfigError: options that are unknown, exclude each other, or need a tokenizer where none is.
  """
  banned = tuple(_token_id(token, cfg, tokenizer) for token in options.banned)
  automaton = None
  if options.constraint is not None:
    if tokenizer is None:
      raise errors.ConfigError("A constraint needs a tokenizer; none was found with the weights.")
    automaton = constraints.automaton(
      options.constraint, tokenizer, max_new_tokens=options.max_new_tokens, banned=banned
    )
  if options.stop and tokenizer is None:
    raise errors.ConfigError("stop= needs a tokenizer; none was found with the weights.")
  if not all(isinstance(text, str) and text for text in options.stop):
    raise errors.ConfigError(f"stop={list(options.stop)!r}: expected texts that are not empty.")
  return generate.make_generate(
    cfg,
    max_new_tokens=options.max_new_tokens,
    eos_id=tokenizers.EOS_ID,
    sampler=options.sampler,
    best_of=options.best_of,
    beam_size=options.beam_size,
    banned=banned,
    automaton=automaton,
    ends=_ending(options.stop, tokenizer) if options.stop else (),
    repetition_penalty=options.repetition_penalty,
  )


def sampler(given: str, temperature: float | None, top_k: int, top_p: float) -> str:
  """The sampler that these say, as `sampling.parse` reads it.

  Args:
    temperature: 0 is greedy; None is 1 where one of the others draws, else what `given` says.
    top_k: 0 for all; top_p: 1 for all.

  Raises:
    ConfigError: numbers out of their range, or a sampler beside them.
  """
  for name, value in (("temperature", temperature), ("top_p", top_p), ("top_k", top_k)):
    if value is not None and (type(value) not in (int, float) or not 0 <= value < 1e9):
      raise errors.ConfigError(f"{name}={value!r} must be a number from 0 on.")
  if temperature is None and not top_k and top_p == 1:
    return given
  if given.strip() != "greedy":
    raise errors.ConfigError(
      f"sampler={given!r} and {temperature=}, {top_k=}, {top_p=}: choose one of the two ways."
    )
  if temperature == 0:
    return "greedy"
  return f"draw({top_k}, {top_p}, {1.0 if temperature is None else temperature})"


def until(
  tokenizer: tokenizers.Tokenizer, tokens: Sequence[int], stop: Sequence[str]
) -> tuple[str, int]:
  """(the text before the first of the stop strings, how many tokens make that and the string)."""
  text = tokenizer.decode(tokens)
  found = [(at, word) for word in stop if (at := text.find(word)) >= 0]
  if not found:
    return text, len(tokens)
  at, word = min(found, key=lambda place: (place[0], len(place[1])))
  ends = tokenizer.ends(tokens)
  return text[:at], next(i + 1 for i, end in enumerate(ends) if end >= at + len(word))


def _ending(stop: Sequence[str], tokenizer: tokenizers.Tokenizer) -> tuple[int, ...]:
  """The tokens that hold one of these texts whole, so that the device may stop at them."""
  texts = ((i, tokenizer.text_of(i)) for i in range(tokenizer.vocab_size))
  return tuple(i for i, text in texts if any(word in text for word in stop))


def _token_id(
  token: str | int, cfg: variants.ModelConfig, tokenizer: tokenizers.Tokenizer | None
) -> int:
  if not isinstance(token, str):
    if not 0 <= token < cfg.llm.vocab_size:
      raise errors.ConfigError(
        f"banned: token id {token}; the model knows 0 to {cfg.llm.vocab_size - 1}."
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
