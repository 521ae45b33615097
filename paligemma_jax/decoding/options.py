"""How answers are decoded, in words: texts of tokens, a sampler's name, a constraint."""

from __future__ import annotations

import dataclasses
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
  return generate.make_generate(
      cfg,
      max_new_tokens=options.max_new_tokens,
      eos_id=tokenizers.EOS_ID,
      sampler=options.sampler,
      best_of=options.best_of,
      beam_size=options.beam_size,
      banned=banned,
      automaton=automaton,
  )


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
