"""Beam search: the most probable complete answer that the beams find.

  B rows, A beams per row, S = N - 1 new tokens that are fed back, N new tokens, V vocabulary.

As in the published transfers: an answer's score is the sum of its log-probabilities, without a
length penalty; at each step every beam is also tried as an answer that ends here, the best such
answer is kept, and the beams go on with the most probable tokens that are not EOS. Since a score
only falls, a row is done when no beam is above its best answer. An answer without EOS is returned
only where none ended.

No keys or values are ever copied: the beams of a row share the prompt's slots, each token keeps the
slot that it was written to, and a beam attends to the slots of its own past. Choosing beams
therefore permutes a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from paligemma_jax.decoding import constraints


class _Beams(NamedTuple):
  """Answers that have not ended, the most probable first; all are equally long.

  Shapes: tokens int32[B, A, N]; logprob float32[B, A, N]; score float32[B, A], -inf in a beam that
  is empty; state int32[B, A, 3], of the rules; own bool[B, A, S, A], the slots of its past.
  """

  tokens: jax.Array
  logprob: jax.Array
  score: jax.Array
  state: jax.Array
  own: jax.Array


class _Best(NamedTuple):
  """The best answer of each row that ended: int32[B, N], float32[B, N], float32[B]."""

  tokens: jax.Array
  logprob: jax.Array
  score: jax.Array


def make(
  rules: constraints.Rules, eos_id: int, beam_size: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """`search(prompt, extend, max_new_tokens)` -> int32[B, N] tokens, float32[B, N] logprobs."""

  def grow(step, beams, best, logits_BAV):
    """Beams and best answer with one more token. There may be fewer than A beams at first."""
    num_rows, _, vocab_size = logits_BAV.shape
    total_BA = jax.nn.logsumexp(logits_BAV, axis=-1)
    state_R3 = beams.state.reshape(-1, beams.state.shape[-1])
    logits_BAV = rules.mask(logits_BAV.reshape(-1, vocab_size), state_R3).reshape(logits_BAV.shape)

    best = _end_here(step, beams, best, logits_BAV[..., eos_id] - total_BA, eos_id)
    logits_BAV = logits_BAV.at[..., eos_id].set(-jnp.inf)
    logit_BAK, token_BAK = lax.top_k(logits_BAV, min(beam_size, vocab_size))
    logprob_BAK = logit_BAK - total_BA[..., None]
    score_BAK = beams.score[..., None] + logprob_BAK
    score_BX, logprob_BX, token_BX = (
      _flat(x, beam_size, fill)
      for x, fill in ((score_BAK, -jnp.inf), (logprob_BAK, 0), (token_BAK, 0))
    )
    score_BA, chosen_BA = lax.top_k(score_BX, beam_size)
    parent_BA = chosen_BA // token_BAK.shape[2]
    token_BA, logprob_BA = (
      jnp.take_along_axis(x, chosen_BA, axis=1) for x in (token_BX, logprob_BX)
    )
    beams = jax.tree.map(lambda x: x[jnp.arange(num_rows)[:, None], parent_BA], beams)
    state_R3 = rules.advance(beams.state.reshape(-1, beams.state.shape[-1]), token_BA.reshape(-1))
    beams = _Beams(
      tokens=beams.tokens.at[:, :, step].set(token_BA),
      logprob=beams.logprob.at[:, :, step].set(logprob_BA),
      score=score_BA,
      state=state_R3.reshape(beams.state.shape),
      # After the last step there is no slot; nothing is set then.
      own=beams.own.at[:, :, step].set(jnp.eye(beam_size, dtype=bool)),
    )
    return beams, best

  def search(prompt, extend, max_new_tokens):
    num_rows = prompt.logits_BV.shape[0]
    shape = (num_rows, 1, max_new_tokens)
    beams = _Beams(
      tokens=jnp.full(shape, constraints.PAD_ID, jnp.int32),
      logprob=jnp.zeros(shape, jnp.float32),
      score=jnp.zeros((num_rows, 1), jnp.float32),
      state=rules.start(num_rows)[:, None],
      own=jnp.zeros((num_rows, 1, max(max_new_tokens - 1, 1), beam_size), bool),
    )
    best = _Best(beams.tokens[:, 0], beams.logprob[:, 0], jnp.full(num_rows, -jnp.inf))
    beams, best = grow(jnp.int32(0), beams, best, prompt.logits_BV[:, None])

    def unfinished(carry):
      step, beams, best, _ = carry
      may_win_B = jnp.max(beams.score, axis=1) > best.score
      return (step < max_new_tokens) & jnp.any(may_win_B & prompt.real_B)

    def one_more(carry):
      step, beams, best, cache = carry
      token_BA = lax.dynamic_index_in_dim(beams.tokens, step - 1, axis=2, keepdims=False)
      logits_BAV, cache = extend(token_BA, cache, beams.own.reshape(num_rows, beam_size, -1))
      beams, best = grow(step, beams, best, logits_BAV)
      return step + 1, beams, best, cache

    carry = (jnp.int32(1), beams, best, prompt.cache)
    if max_new_tokens > 1:
      carry = lax.while_loop(unfinished, one_more, carry)
    _, beams, best, _ = carry

    def final(ended_BN, beams_BAN):
      ended_B1 = jnp.isfinite(best.score)[:, None]
      return jnp.where(prompt.real_B[:, None], jnp.where(ended_B1, ended_BN, beams_BAN[:, 0]), 0)

    return final(best.tokens, beams.tokens), final(best.logprob, beams.logprob)

  return search


def _flat(x_BAK, at_least, fill):
  """[B, X], filled up to `at_least` candidates."""
  x_BX = x_BAK.reshape(len(x_BAK), -1)
  widths = [(0, 0), (0, max(at_least - x_BX.shape[1], 0))]
  return jnp.pad(x_BX, widths, constant_values=fill)


def _end_here(step, beams, best, eos_logprob_BA, eos_id):
  """The best answers, after each beam was tried as an answer that ends with this token."""
  score_BA = beams.score + eos_logprob_BA
  beam_B = jnp.argmax(score_BA, axis=1)
  rows = jnp.arange(len(beam_B))
  ended = _Best(
    tokens=beams.tokens[rows, beam_B].at[:, step].set(eos_id),
    logprob=beams.logprob[rows, beam_B].at[:, step].set(eos_logprob_BA[rows, beam_B]),
    score=score_BA[rows, beam_B],
  )
  better_B = ended.score > best.score

  def choose(new, old):
    return jnp.where(better_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  return jax.tree.map(choose, ended, best)
