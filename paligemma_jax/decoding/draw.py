"""One token after the other, greedy or drawn; of several answers per row the most probable one.

B rows, A answers per row, R = B * A, S slots behind the prompt, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paligemma_jax.decoding import rules as prompts
from paligemma_jax.decoding import rules as rules_lib
from paligemma_jax.decoding import sampling


def make(
  rules: rules_lib.Rules,
  ends: Sequence[int],
  best_of: int,
  choose: sampling.Sampler,
  *,
  repetition_penalty: float = 1.0,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """`search(prompt, extend, max_new_tokens)` -> int32[B, N] tokens, float32[B, N] logprobs.

  Args:
    ends: tokens that end an answer, as its last one.
    repetition_penalty: logits of tokens that the prompt or the answer holds are divided by it where
      they are positive, else multiplied; 1 does nothing. Log-probabilities do not know of it.
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
      token_R = jnp.where(done_R, prompts.PAD_ID, token_R)
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
    tokens_RN = jnp.full(shape, prompts.PAD_ID, jnp.int32).at[:, 0].set(token_R)
    logprob_RN = jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob_R)
    done_R |= jnp.isin(token_R, end_ids)
    carry = (
        jnp.int32(1), token_R, prompt.cache, state_R3, done_R, tokens_RN, logprob_RN,
        with_token(seen_RV, token_R),
    )  # fmt: skip
    *_, tokens_RN, logprob_RN, _ = lax.while_loop(unfinished, one_more, carry)
    if best_of == 1:
      return tokens_RN, logprob_RN
    return _most_probable(tokens_RN, logprob_RN, num_rows)

  return search


def _most_probable(tokens_RN, logprob_RN, num_rows):
  tokens_BAN, logprob_BAN = (x.reshape(num_rows, -1, x.shape[1]) for x in (tokens_RN, logprob_RN))
  best_B = jnp.argmax(jnp.sum(logprob_BAN, axis=2), axis=1)
  rows = jnp.arange(num_rows)
  return tokens_BAN[rows, best_B], logprob_BAN[rows, best_B]
