"""A language model of three small tables: as the step that a search calls, and of whole answers.

Each token adds its vector, weighted by its place, to what the prompt left; the logits are linear in
the sum. So they depend on every token of the answer and on the order.
"""

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.decoding import search

VOCAB = 7
EOS = 1
_WIDTH = 5
_MAX_STEPS = 12


class PocketModel:
  """For `num_rows` prompts; `peak` scales the logits."""

  def __init__(self, seed, num_rows, peak=1.5):
    rng = np.random.default_rng(seed)
    self.num_rows = num_rows
    self.prompts = rng.normal(size=(num_rows, _WIDTH)).astype(np.float32)
    self._vectors = rng.normal(size=(VOCAB, _WIDTH)).astype(np.float32)
    self._places = rng.normal(size=(_MAX_STEPS, _WIDTH)).astype(np.float32)
    self._out = (peak * rng.normal(size=(_WIDTH, VOCAB))).astype(np.float32)
    self.num_calls = 0

  def logprobs(self, row, answer):
    """float64[V], of the token after this answer."""
    x = self.prompts[row].astype(np.float64)
    for i, token in enumerate(answer):
      x = x + self._vectors[token].astype(np.float64) * self._places[i]
    logits = x @ self._out
    return logits - np.log(np.exp(logits).sum())

  def logprob(self, row, answer):
    """Of the whole answer."""
    return sum(self.logprobs(row, answer[:i])[token] for i, token in enumerate(answer))

  def start(self, num_answers, max_new_tokens, real=None):
    """The Prompt; its cache is the tokens so far, [B, S], and the number of used slots."""
    slots = jnp.zeros((self.num_rows, num_answers * (max_new_tokens - 1)), jnp.int32)
    return search.Prompt(
      logits_BV=jnp.asarray(self.prompts @ self._out),
      cache=(slots, jnp.int32(0)),
      real_B=jnp.ones(self.num_rows, bool) if real is None else jnp.asarray(real),
      keys_B=jax.random.split(jax.random.key(3), self.num_rows),
    )

  def extend(self, token_BA, cache, own_BAS):
    """The step that a search calls; counts its calls."""
    jax.debug.callback(self._count)
    slots, used = cache
    slots = jax.lax.dynamic_update_slice(slots, token_BA, (0, used))
    num_answers, used = token_BA.shape[1], used + token_BA.shape[1]
    place_S = jnp.arange(slots.shape[1])
    used_S = place_S < used
    own_BAS = used_S[None, None] if own_BAS is None else own_BAS & used_S
    added = jnp.asarray(self._vectors)[slots] * jnp.asarray(self._places)[place_S // num_answers]
    seen = jnp.where(own_BAS[..., None], added[:, None], 0).sum(2)
    return (self.prompts[:, None] + seen) @ self._out, (slots, used)

  def _count(self):
    self.num_calls += 1
