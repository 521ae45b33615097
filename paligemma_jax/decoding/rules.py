"""Which tokens may come next: banned ids, and an automaton that reads the answer as it grows.

R answers (rows, or rows x beams), E edges, C classes of tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.models import gemma

NUM_REGISTERS = 2


class Automaton(NamedTuple):
  """A finite automaton over classes of tokens, with two registers for the corners of boxes.

  An edge lets every token of class `low` to `high` pass from `source` to `target`. Where
  `register` is not -1, the class must also be at least that register's number plus `gap`; where
  `store` is not -1, the class goes into that register. Edges of one source never overlap. State 0
  is the start; an answer that ended needs no edges.

  Shapes: class_of int32[V], from 0 to C - 1; all others int32[E].
  """

  class_of: np.ndarray
  source: np.ndarray
  low: np.ndarray
  high: np.ndarray
  target: np.ndarray
  policy: np.ndarray
  gap: np.ndarray
  store: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rules:
  """What tokens may be chosen, given the state of each answer.

  A state is int32[R, 3], the automaton's state and its registers; without an automaton nothing
  changes it.

  Attributes:
    banned: ids that never come.
    automaton: absent: whatever is not banned may come.
  """

  banned: Sequence[int] = ()
  automaton: Automaton | None = None

  def start(self, num_rows: int) -> jax.Array:
    """int32[num_rows, 3], the state of answers without a token."""
    return jnp.zeros((num_rows, 1 + NUM_REGISTERS), jnp.int32)

  def mask(self, logits_RV: jax.Array, state_R3: jax.Array) -> jax.Array:
    """The logits, -inf where a token may not come next."""
    if self.automaton is not None:
      logits_RV = jnp.where(self._allowed(logits_RV.shape[1], state_R3), logits_RV, -jnp.inf)
    if len(self.banned):
      logits_RV = logits_RV.at[:, np.unique(np.asarray(self.banned, np.int32))].set(-jnp.inf)
    return logits_RV

  def advance(self, state_R3: jax.Array, token_R: jax.Array) -> jax.Array:
    """The state after one more token; as it was where the token may not come."""
    a = self.automaton
    if a is None:
      return state_R3
    class_R1 = jnp.asarray(a.class_of)[token_R][:, None]
    hit_RE = self._passable(state_R3) & (self._low(state_R3) <= class_R1) & (class_R1 <= a.high)
    edge_R = jnp.argmax(hit_RE, axis=1)
    stored_R2 = jnp.where(
      jnp.asarray(a.store)[edge_R][:, None] == np.arange(NUM_REGISTERS), class_R1, state_R3[:, 1:]
    )
    moved_R3 = jnp.concatenate([jnp.asarray(a.target)[edge_R][:, None], stored_R2], axis=1)
    return jnp.where(jnp.any(hit_RE, axis=1)[:, None], moved_R3, state_R3)

  def _allowed(self, vocab_size: int, state_R3: jax.Array) -> jax.Array:
    """bool[R, V]."""
    a = self.automaton
    low_RE = self._low(state_R3)
    open_RE = (self._passable(state_R3) & (low_RE <= a.high)).astype(jnp.int32)
    num_classes = int(a.class_of.max()) + 1
    # Each open edge begins at its lowest class and ends behind its highest; the sum so far tells
    # whether a class lies in one. It costs E + C, however many classes an edge spans.
    rows = jnp.arange(state_R3.shape[0])[:, None]
    steps_RC = jnp.zeros((state_R3.shape[0], num_classes + 1), jnp.int32)
    steps_RC = steps_RC.at[rows, jnp.minimum(low_RE, num_classes)].add(open_RE)
    steps_RC = steps_RC.at[rows, a.high[None] + 1].add(-open_RE)
    inside_RC = jnp.cumsum(steps_RC, axis=1)[:, :-1] > 0
    allowed_RV = inside_RC[:, a.class_of]
    # Rows of the model's table that no token has.
    return jnp.pad(allowed_RV, [(0, 0), (0, vocab_size - allowed_RV.shape[1])])

  def _passable(self, state_R3: jax.Array) -> jax.Array:
    return state_R3[:, :1] == self.automaton.source

  def _low(self, state_R3: jax.Array) -> jax.Array:
    """int32[R, E], the lowest class that passes each edge."""
    a = self.automaton
    bound_RE = state_R3[:, 1 + np.maximum(a.policy, 0)] + a.gap
    return jnp.where(a.policy >= 0, jnp.maximum(a.low, bound_RE), a.low)


PAD_ID = 0


class Prompt(NamedTuple):
  """A batch of prompts, already read by the model.

  Attributes:
    logits_BV: float32[B, V], of the first new token.
    cache: the keys and values of the prompts, with room for the answers.
    real_B: bool[B]; False marks rows that only fill up the batch.
    keys_B: one random key per row.
    seen_BV: bool[B, V]: tokens that the prompts hold; None where nobody asks.
  """

  logits_BV: jax.Array
  cache: gemma.Cache
  real_B: jax.Array
  keys_B: jax.Array
  seen_BV: jax.Array | None = None
