"""One token after the other, greedy or drawn; of several answers per row the most probable one.

  B rows, A answers per row, R = B * A, S slots behind the prompt, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from paligemma_jax.decoding import prompt as prompts
from paligemma_jax.decoding import rules as rules_lib
from paligemma_jax.decoding import sampling


def make(
    rules: rules_lib.Rules, eos_id: int, best_of: int, choose: sampling.Sampler
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """`search(prompt, extend, max_new_tokens)` -> int32[B, N] tokens, float32[B, N] logprobs."""

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

    def pick(step, logits_RV, state_R3, done_R):
      """The tokens of this step, their log-probabilities, the states behind them."""
      step_keys_R = jax.vmap(jax.random.fold_in, (0, None))(keys_R, step)
      token_R = choose(rules.mask(logits_RV, state_R3), step_keys_R)
      logit_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=1)[:, 0]
      logprob_R = logit_R - jax.nn.logsumexp(logits_RV, axis=1)
      token_R = jnp.where(done_R, prompts.PAD_ID, token_R)
      return token_R, jnp.where(done_R, 0.0, logprob_R), rules.advance(state_R3, token_R)

    def unfinished(carry):
      step, _, _, _, done_R, _, _ = carry
      return (step < max_new_tokens) & ~jnp.all(done_R)

    def one_more(carry):
      step, token_R, cache, state_R3, done_R, tokens_RN, logprob_RN = carry
      logits_BAV, cache = extend(token_R.reshape(num_rows, best_of), cache, own_BAS)
      logits_RV = logits_BAV.reshape(-1, logits_BAV.shape[-1])
      token_R, logprob_R, state_R3 = pick(step, logits_RV, state_R3, done_R)
      tokens_RN = tokens_RN.at[:, step].set(token_R)
      logprob_RN = logprob_RN.at[:, step].set(logprob_R)
      done_R |= token_R == eos_id
      return step + 1, token_R, cache, state_R3, done_R, tokens_RN, logprob_RN

    done_R = jnp.repeat(~prompt.real_B, best_of)
    logits_RV = jnp.repeat(prompt.logits_BV, best_of, axis=0)
    token_R, logprob_R, state_R3 = pick(0, logits_RV, rules.start(len(done_R)), done_R)
    shape = (len(done_R), max_new_tokens)
    tokens_RN = jnp.full(shape, prompts.PAD_ID, jnp.int32).at[:, 0].set(token_R)
    logprob_RN = jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob_R)
    done_R |= token_R == eos_id
    carry = (jnp.int32(1), token_R, prompt.cache, state_R3, done_R, tokens_RN, logprob_RN)
    *_, tokens_RN, logprob_RN = lax.while_loop(unfinished, one_more, carry)
    if best_of == 1:
      return tokens_RN, logprob_RN
    return _most_probable(tokens_RN, logprob_RN, num_rows)

  return search


def _most_probable(tokens_RN, logprob_RN, num_rows):
  tokens_BAN, logprob_BAN = (
      x.reshape(num_rows, -1, x.shape[1]) for x in (tokens_RN, logprob_RN)
  )
  best_B = jnp.argmax(jnp.sum(logprob_BAN, axis=2), axis=1)
  rows = jnp.arange(num_rows)
  return tokens_BAN[rows, best_B], logprob_BAN[rows, best_B]
