"""What a search starts from, and the one number that all searches share.

  B rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from paligemma_jax.models import gemma

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
