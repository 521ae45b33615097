"""Which positions attend to which: a prefix-LM mask as block numbers, never as a [Q, S] array.

B rows, Q query positions, S key positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Larger than any block number: a key that no query attends to (padding, an unused cache slot).
HIDDEN = 2**30

# The logit of a masked key.
MASKED_LOGIT = -2.3819763e38

# The `checkpoint_name` of what attention by rows would otherwise recompute.
KEPT = "attention"


class AttentionMask(NamedTuple):
  """Query q attends to key k iff k_block[k] <= q_block[q].

  The prefix is one block, each suffix token the next one. A sliding window of w masks keys of
  earlier blocks that are w or more positions behind. `extra_mask` masks more, where it is False:
  the other answers to the same prompt.

  Shapes: q_block, q_pos int32[B or 1, Q]; k_block, k_pos int32[B or 1, S];
  extra_mask bool[B or 1, Q, S].
  """

  q_block: jax.Array
  k_block: jax.Array
  q_pos: jax.Array
  k_pos: jax.Array
  extra_mask: jax.Array | None = None

  def dense(self, window: jax.Array | None = None) -> jax.Array:
    """bool[B or 1, Q, S]; `window` int32[], absent for none."""
    q_block, k_block = self.q_block[:, :, None], self.k_block[:, None, :]
    seen = k_block <= q_block
    if window is not None:
      near = self.q_pos[:, :, None] - self.k_pos[:, None, :] < window
      seen &= near | (k_block == q_block)
    return seen if self.extra_mask is None else seen & self.extra_mask

  def of_last(self, num: int) -> AttentionMask:
    """The mask of the last `num` queries."""
    extra_mask = None if self.extra_mask is None else self.extra_mask[:, -num:]
    return AttentionMask(
      self.q_block[:, -num:], self.k_block, self.q_pos[:, -num:], self.k_pos, extra_mask
    )


def prefix_lm(mask_ar_BS: jax.Array, valid_BS: jax.Array | None = None) -> AttentionMask:
  """AttentionMask among S positions, and the positions themselves.

  Args:
    mask_ar_BS: int32[B, S]; 0: same block as the position before, 1: a new block.
    valid_BS: bool[B, S]; False masks a position and does not count it. None: all are valid.
  """
  block_BS = jnp.cumsum(mask_ar_BS, axis=1, dtype=jnp.int32)
  if valid_BS is None:
    pos = jnp.arange(mask_ar_BS.shape[1], dtype=jnp.int32)[None]
    return AttentionMask(block_BS, block_BS, pos, pos)
  pos_BS = jnp.maximum(jnp.cumsum(valid_BS, axis=1, dtype=jnp.int32) - 1, 0)
  return AttentionMask(block_BS, jnp.where(valid_BS, block_BS, HIDDEN), pos_BS, pos_BS)


def of_queries(mask: AttentionMask | None) -> dict[str, Any]:
  """The parts of a mask that have a dim of queries; {} without a mask."""
  return {} if mask is None else {n: getattr(mask, n) for n in ("q_block", "q_pos", "extra_mask")}


def in_pieces(x: jax.Array, num: int, length: int) -> jax.Array:
  """[B, num, length, ...] of [B, Q, ...], with zeros behind the last position."""
  x = jnp.pad(x, [(0, 0), (0, num * length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
  return x.reshape(x.shape[0], num, length, *x.shape[2:])
