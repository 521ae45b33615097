"""The decoding half of evaluation: an evaluator's options to a program, its result to outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

import jax

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.data import loader
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import generate
from paligemma_jax.decoding import options
from paligemma_jax.running import between_processes
from paligemma_jax.running import setup as setups

_NAMES = ("tokens", "lengths", "logprob", "token_logprob")
_OPTIONS = tuple(f.name for f in dataclasses.fields(options.Options) if f.name != "max_new_tokens")


def programs(
    evaluators: Sequence[evals.Evaluator], setup: setups.Setup
) -> dict[str, generate.Generate]:
  """{evaluator name: generate}, one program for evaluators that decode alike; nothing is compiled.

  Raises:
    ConfigError: an evaluator's decoding options are wrong.
  """
  made: dict[options.Options, generate.Generate] = {}
  named = {}
  for evaluator in evaluators:
    if evaluator.encoding != "decode":
      continue
    asked = {name: getattr(evaluator, name) for name in _OPTIONS}
    try:
      how = options.Options(max_new_tokens=evaluator.max_len, **asked)
      if how not in made:
        made[how] = options.make_generate(setup.cfg, how, setup.tokenizer)
    except errors.ConfigError as e:
      raise errors.ConfigError(f"evaluator {evaluator.name!r}: {e}") from None
    named[evaluator.name] = made[how]
  return named


def outputs(
    tokenizer: tokenizers.Tokenizer,
    batch: loader.Batch,
    result: Mapping[str, jax.Array],
    stop: str | Sequence[str],
) -> list[evals.Output]:
  """What `generate` gave for this process's rows of the batch."""
  columns = [between_processes.local_rows(result[name]) for name in _NAMES]
  found = []
  for row, ids, length, total, each in zip(batch["_row"], *columns, strict=True):
    ids, each = (x[:length].tolist() for x in (ids, each))
    answer = options.answer(tokenizer, ids, float(total), each, stop)
    # The tokens of a stop string write nothing that is kept.
    ends = tuple(min(end, len(answer.text)) for end in tokenizer.ends(answer.tokens))
    found.append(evals.Output(int(row), *answer, token_ends=ends))
  return found
