"""The decoding half of evaluation: an evaluator's options to a program, its result to outputs."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

import jax

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.data import loader
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import generate
from paligemma_jax.decoding import options
from paligemma_jax.multihost import gather
from paligemma_jax.trainer import setup as setups

_NAMES = ("tokens", "lengths", "logprob", "token_logprob")


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
    how = options.Options(
        max_new_tokens=evaluator.max_len,
        sampler=evaluator.sampler,
        best_of=evaluator.best_of,
        beam_size=evaluator.beam_size,
        banned=evaluator.banned,
        constraint=evaluator.constraint,
    )
    if how not in made:
      try:
        made[how] = options.make_generate(setup.cfg, how, setup.tokenizer)
      except errors.ConfigError as e:
        raise errors.ConfigError(f"evaluator {evaluator.name!r}: {e}") from None
    named[evaluator.name] = made[how]
  return named


def outputs(
    tokenizer: tokenizers.Tokenizer, batch: loader.Batch, result: Mapping[str, jax.Array]
) -> list[evals.Output]:
  """What `generate` gave for this process's rows of the batch."""
  columns = [gather.local_rows(result[name]) for name in _NAMES]
  found = []
  for row, ids, length, total, each in zip(batch["_row"], *columns, strict=True):
    ids, each = (tuple(x[:length].tolist()) for x in (ids, each))
    output = evals.Output(
        int(row),
        text=tokenizer.decode(ids),
        tokens=ids,
        logprob=float(total),
        token_logprobs=each,
        token_ends=tokenizer.ends(ids),
    )
    found.append(output)
  return found
