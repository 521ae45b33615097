"""The search for an answer: token by token, chosen by a sampler, or with beams.

B rows, A answers or beams per row, R = B * A, N new tokens, S = N - 1 of them that are fed back,
V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import constraints
from paligemma_jax.models import gemma


class Prompt(NamedTuple):
  """A batch of prompts after prefill."""

  logits_BV: jax.Array  # float32, of the first new token.
  cache: gemma.Cache  # With room for the answers.
  real_B: jax.Array  # bool; False marks padding rows.
  keys_B: jax.Array  # Random keys.
  seen_BV: jax.Array | None = None  # bool: tokens of the prompts, for a repetition penalty.


# (prompt, extend, max_new_tokens) -> int32[B, N] tokens, float32[B, N] logprobs.
Search = Callable[..., tuple[jax.Array, jax.Array]]

# A sampler takes float32[B, V] logits and one key per row, and returns int32[B].
Sampler = Callable[[jax.Array, jax.Array], jax.Array]

_PATTERN = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


def sampler(text: str) -> Sampler:
  """The sampler named by `text`.

    "greedy"              the most likely token
    "temperature(t)"      softmax(logits / t)
    "top_k(k, t)"         the same among the k most likely tokens; t may be left out: 1
    "nucleus(p, t)"       the same among the fewest most likely tokens that have probability p at
                          temperature t (top-p)
    "draw(k, p, t)"       the same among those of the k most likely ones; k of 0: all, p of 1: all

  Raises:
    ConfigError: no such sampler, or a number out of its range.
  """
  match = _PATTERN.fullmatch(text)
  if not match:
    raise errors.ConfigError(
      f"sampler {text!r} is not of the form 'greedy', 'temperature(0.7)', 'top_k(40, 0.7)' or"
      " 'nucleus(0.9, 0.7)'."
    )
  names = errors.pick(_ARGUMENTS, match[1], "sampler")
  try:
    numbers = [float(x) for x in match[2].split(",")] if (match[2] or "").strip() else []
  except ValueError:
    raise errors.ConfigError(f"sampler {text!r}: its arguments are not numbers.") from None
  if not min(len(names), 1) <= len(numbers) <= len(names):
    raise errors.ConfigError(
      f"sampler {text!r} has {len(numbers)} arguments; it takes {len(names)}."
    )
  if not names:
    return lambda logits_BV, keys_B: jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  given = {"k": 0.0, "p": 1.0, "t": 1.0, **dict(zip(names, numbers, strict=False))}
  if given["t"] <= 0:
    raise errors.ConfigError(f"sampler {text!r}: the temperature must be above 0; use 'greedy'.")
  least = 0 if match[1] == "draw" or "k" not in names else 1
  if not (least <= given["k"] < 1 << 31) or given["k"] != int(given["k"]):
    raise errors.ConfigError(f"sampler {text!r}: k must be a whole number of at least {least}.")
  if not 0 < given["p"] <= 1:
    raise errors.ConfigError(f"sampler {text!r}: p must be in (0, 1].")
  cuts = match[1] == "nucleus" or given["p"] < 1

  def sample(logits_BV, keys_B):
    if given["k"]:
      logits_BV = _without_unlikely(logits_BV, int(given["k"]))
    logits_BV = logits_BV / given["t"]
    if cuts:
      logits_BV = _nucleus(logits_BV, given["p"])
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)

  return sample


# The arguments of each sampler: k most likely tokens, p of top-p, temperature t.
_ARGUMENTS = {
  "greedy": (),
  "temperature": ("t",),
  "top_k": ("k", "t"),
  "nucleus": ("p", "t"),
  "draw": ("k", "p", "t"),
}


def _nucleus(logits_BV: jax.Array, p: float) -> jax.Array:
  """The logits, -inf but for the fewest most likely tokens that have probability p."""
  sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
  probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
  # A token stays when those before it do not have p yet; so the first always stays.
  stays_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < p
  lowest_B1 = jnp.min(jnp.where(stays_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits_BV >= lowest_B1, logits_BV, -jnp.inf)


def _without_unlikely(logits_BV: jax.Array, k: int) -> jax.Array:
  # By index, not by value: of equal logits the first ones stay, and no more than k.
  places_BK = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[1]
  rows_B1 = jnp.arange(len(logits_BV))[:, None]
  stays_BV = jnp.zeros(logits_BV.shape, bool).at[rows_B1, places_BK].set(True)
  return jnp.where(stays_BV, logits_BV, -jnp.inf)


def by_sampling(
  rules: constraints.Rules,
  ends: Sequence[int],
  best_of: int,
  choose: Sampler,
  *,
  repetition_penalty: float = 1.0,
) -> Search:
  """Draws `best_of` answers per row, and gives the most probable.

  Args:
    ends: tokens that end an answer, as its last one.
    repetition_penalty: logits of tokens in the prompt or the answer are divided by it where they
      are positive, else multiplied; 1 is off. Reported log-probabilities are without it.
  """
  end_ids = np.asarray(ends, np.int32)
  penalized = repetition_penalty != 1.0

  def fair(logits_RV, seen_RV):
    if not penalized:
      return logits_RV
    less_RV = jnp.where(
      logits_RV > 0, logits_RV / repetition_penalty, logits_RV * repetition_penalty
    )
    return jnp.where(seen_RV, less_RV, logits_RV)

  def with_token(seen_RV, token_R):
    return seen_RV.at[jnp.arange(len(token_R)), token_R].set(True) if penalized else seen_RV

  def search(prompt, extend, max_new_tokens):
    num_rows = prompt.logits_BV.shape[0]
    keys_R, own_BAS = prompt.keys_B, None
    if best_of > 1:
      answers_A = jnp.arange(best_of)
      fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
      keys_R = fold(keys_R, answers_A).reshape(-1)
      # Answers take the slots in turns.
      slots_S = jnp.arange(best_of * (max_new_tokens - 1))
      own_BAS = (slots_S % best_of == answers_A[:, None])[None]

    def pick(step, logits_RV, state_R3, done_R, seen_RV):
      """The tokens of this step, their log-probabilities, the states behind them."""
      step_keys_R = jax.vmap(jax.random.fold_in, (0, None))(keys_R, step)
      token_R = choose(rules.mask(fair(logits_RV, seen_RV), state_R3), step_keys_R)
      logit_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=1)[:, 0]
      logprob_R = logit_R - jax.nn.logsumexp(logits_RV, axis=1)
      token_R = jnp.where(done_R, tokenizers.PAD_ID, token_R)
      return token_R, jnp.where(done_R, 0.0, logprob_R), rules.advance(state_R3, token_R)

    def unfinished(carry):
      step, _, _, _, done_R, _, _, _ = carry
      return (step < max_new_tokens) & ~jnp.all(done_R)

    def one_more(carry):
      step, token_R, cache, state_R3, done_R, tokens_RN, logprob_RN, seen_RV = carry
      logits_BAV, cache = extend(token_R.reshape(num_rows, best_of), cache, own_BAS)
      logits_RV = logits_BAV.reshape(-1, logits_BAV.shape[-1])
      token_R, logprob_R, state_R3 = pick(step, logits_RV, state_R3, done_R, seen_RV)
      tokens_RN = tokens_RN.at[:, step].set(token_R)
      logprob_RN = logprob_RN.at[:, step].set(logprob_R)
      done_R |= jnp.isin(token_R, end_ids)
      seen_RV = with_token(seen_RV, token_R)
      return step + 1, token_R, cache, state_R3, done_R, tokens_RN, logprob_RN, seen_RV

    done_R = jnp.repeat(~prompt.real_B, best_of)
    logits_RV = jnp.repeat(prompt.logits_BV, best_of, axis=0)
    seen_RV = jnp.repeat(prompt.seen_BV, best_of, axis=0) if penalized else jnp.zeros((0, 0), bool)
    token_R, logprob_R, state_R3 = pick(0, logits_RV, rules.start(len(done_R)), done_R, seen_RV)
    shape = (len(done_R), max_new_tokens)
    tokens_RN = jnp.full(shape, tokenizers.PAD_ID, jnp.int32).at[:, 0].set(token_R)
    logprob_RN = jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob_R)
    done_R |= jnp.isin(token_R, end_ids)
    carry = (
        jnp.int32(1), token_R, prompt.cache, state_R3, done_R, tokens_RN, logprob_RN,
        with_token(seen_RV, token_R),
    )  # fmt: skip
    *_, tokens_RN, logprob_RN, _ = lax.while_loop(unfinished, one_more, carry)
    if best_of == 1:
      return tokens_RN, logprob_RN
    tokens_BAN, logprob_BAN = (x.reshape(num_rows, best_of, -1) for x in (tokens_RN, logprob_RN))
    rows, best_B = jnp.arange(num_rows), jnp.argmax(jnp.sum(logprob_BAN, axis=2), axis=1)
    return tokens_BAN[rows, best_B], logprob_BAN[rows, best_B]

  return search


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
  """Of each row the best answer that ended: int32[B, N], float32[B, N], float32[B]."""

  tokens: jax.Array
  logprob: jax.Array
  score: jax.Array


def by_beams(rules: constraints.Rules, eos_id: int, beam_size: int) -> Search:
  """The most probable complete answer that the beams find.

  As in the published transfers: an answer's score is the sum of its log-probabilities, without a
  length penalty; at each step every beam is also tried as an answer that ends here, the best such
  answer is kept, and the beams go on with the most probable tokens that are not EOS. Since a score
  only falls, a row is done when no beam is above its best answer. An answer without EOS is returned
  only where none ended.

  No keys or values are ever copied: the beams of a row share the prompt's slots, each token keeps
  the slot that it was written to, and a beam attends to the slots of its own past. Choosing beams
  therefore permutes a mask.
  """

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

    def flat(x_BAK, fill):  # [B, X], at least as many candidates as beams.
      x_BX = x_BAK.reshape(num_rows, -1)
      widths = [(0, 0), (0, max(beam_size - x_BX.shape[1], 0))]
      return jnp.pad(x_BX, widths, constant_values=fill)

    score_BA, chosen_BA = lax.top_k(flat(score_BAK, -jnp.inf), beam_size)
    parent_BA = chosen_BA // token_BAK.shape[2]
    token_BA = jnp.take_along_axis(flat(token_BAK, 0), chosen_BA, axis=1)
    logprob_BA = jnp.take_along_axis(flat(logprob_BAK, 0), chosen_BA, axis=1)
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
      tokens=jnp.full(shape, tokenizers.PAD_ID, jnp.int32),
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
