"""Next-token NLL at supervised positions only, never holding all logits at once.

Legend: B rows, T text tokens, M supervised positions kept per row, C chunks of c positions,
D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BUDGET_BYTES = 64 * 2**20  # Of float32 logits per device; above it the positions go in chunks.


# (logits float32[B, c, V], targets int32[B, c]) -> (loss float32[B, c], correct bool[B, c]).
TokenLoss = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class TokenLosses(NamedTuple):
  """Per supervised position, in text order; slots beyond a row's supervised tokens weigh 0."""

  nll_BM: jax.Array  # float32, the cross-entropy, smoothed or not, or the user's own loss.
  correct_BM: jax.Array  # bool, the target has the highest logit.
  weight_BM: jax.Array  # float32, mask_loss at that position, 0 in unused slots.
  index_BM: jax.Array  # int32, the position in the text that the target stands at, minus 1.


class RowSums(NamedTuple):
  """Sums over one row's supervised tokens, each float32[B]."""

  loss_sum: jax.Array  # Of NLL times weight.
  num_tokens: jax.Array  # Of weights.
  num_correct: jax.Array  # Of weights where the target has the highest logit.


def num_supervised(mask_loss: np.ndarray) -> int:
  """Positions per row to keep for this batch: the next of 8, 16, 32, ... , L that covers it.

  On the host, of float32[B, L+1], because it is a static size of the compiled step. Processes see
  different rows and must run the same program: the largest of their own counts for all.
  """
  text_len = mask_loss.shape[1] - 1
  most = int((mask_loss[:, 1:] != 0).sum(axis=1).max(initial=0))
  bucket = 8
  while bucket < most:
    bucket *= 2
  return min(bucket, text_len)


@jax.named_scope("loss")
def token_losses(
  logits_fn: Callable[[jax.Array], jax.Array],
  x_BTD: jax.Array,
  targets_BT: jax.Array,
  mask_BT: jax.Array,
  *,
  num_supervised: int,
  chunk: int,
  token_loss: TokenLoss,
) -> TokenLosses:
  """NLL of the first M = `num_supervised` supervised positions of each row.

  M must cover the fullest row. More than `chunk` positions (of `chunk_len`) go in chunks, whose
  logits are computed again in the backward pass.

  Args:
    logits_fn: [B, c, D] -> float32[B, c, V].
    x_BTD: features; position t predicts `targets_BT[:, t]`, int32[B, T].
    mask_BT: float32[B, T], 0 at unsupervised positions.
  """
  supervised_BT = mask_BT != 0
  # A stable sort keeps text order; supervised positions come first.
  index_BM = jnp.argsort(~supervised_BT, axis=1, stable=True)[:, :num_supervised]
  x_BMD = jnp.take_along_axis(x_BTD, index_BM[..., None], axis=1)
  targets_BM = jnp.take_along_axis(targets_BT, index_BM, axis=1)
  weight_BM = jnp.take_along_axis(mask_BT, index_BM, axis=1).astype(jnp.float32)

  def losses(x, targets):
    return token_loss(logits_fn(x).astype(jnp.float32), targets)

  if chunk < num_supervised:
    nll_BM, correct_BM = _in_chunks(losses, x_BMD, targets_BM, chunk)
  else:
    nll_BM, correct_BM = losses(x_BMD, targets_BM)
  return TokenLosses(nll_BM, correct_BM, weight_BM, index_BM)


def chunk_len(
  num_rows: int, vocab_size: int, num_devices: int, budget_bytes: int = BUDGET_BYTES
) -> int:
  """Positions per row whose float32 logits fit the budget of bytes on each device; at least 1."""
  rows = -(-num_rows // num_devices)
  return max(1, budget_bytes // (rows * vocab_size * 4))


def row_sums(losses: TokenLosses) -> RowSums:
  # Unused slots hold other positions' losses; only a select keeps their NaNs out of the sum.
  used_BM = losses.weight_BM != 0
  nll_BM = jnp.where(used_BM, losses.nll_BM * losses.weight_BM, 0.0)
  correct_BM = jnp.where(losses.correct_BM, losses.weight_BM, 0.0)
  return RowSums(nll_BM.sum(1), losses.weight_BM.sum(1), correct_BM.sum(1))


def batch_loss(sums: RowSums, mask_B: jax.Array, num_rows: jax.Array) -> jax.Array:
  """float32[]: the mean over rows of each row's mean over its supervised tokens.

  Rows with `_mask` False (padding, rejected rows) count neither above nor below the line. A real
  row without any supervised token counts as 0 and is divided by, as in the reference. `num_rows`,
  float32[], are the real rows of the whole batch, of which these rows may be a part.
  """
  mean_B = sums.loss_sum / jnp.maximum(sums.num_tokens, 1.0)
  return jnp.where(mask_B, mean_B, 0.0).sum() / jnp.maximum(num_rows, 1.0)


def cross_entropy(label_smoothing: float) -> TokenLoss:
  """The negative log-likelihood of the target, which weighs 1 - s, each other token s / (V - 1)."""

  def loss(logits, targets):
    target, most, correct = _target_and_most(logits, targets)
    lse = jnp.log(jnp.exp(logits - most).sum(axis=-1)) + most[..., 0]
    if not label_smoothing:
      return lse - target, correct
    # The weights on all tokens sum to 1, so log-softmax is never needed as a tensor.
    off = label_smoothing / (logits.shape[-1] - 1)
    on = 1.0 - label_smoothing
    return lse - (on - off) * target - off * logits.sum(axis=-1), correct

  return loss


def own(fn: Callable[[jax.Array, jax.Array], jax.Array]) -> TokenLoss:
  """A loss of the user's own (see `custom.token_loss`), and what the model gets right."""

  def loss(logits, targets):
    _, _, correct = _target_and_most(logits, targets)
    return fn(logits, targets).astype(jnp.float32), correct

  return loss


def _target_and_most(logits, targets):
  """(the target's logit [B, c], the highest [B, c, 1], whether they are equal)."""
  ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
  # Sums and maxima, not gathers: they stay local where the vocabulary is sharded over devices, and
  # fuse, so that neither this mask nor a one-hot is ever stored.
  target = jnp.where(ids == targets[..., None], logits, 0.0).sum(axis=-1)
  most = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  return target, most, target == most[..., 0]


def _in_chunks(losses, x_BMD, targets_BM, chunk):
  num_rows, num_positions, width = x_BMD.shape
  extra = -num_positions % chunk
  x_CBcD = jnp.pad(x_BMD, ((0, 0), (0, extra), (0, 0))).reshape(num_rows, -1, chunk, width)
  targets_CBc = jnp.pad(targets_BM, ((0, 0), (0, extra))).reshape(num_rows, -1, chunk)
  # Without the checkpoint, scan would keep every chunk's logits for the backward pass.
  body = jax.checkpoint(losses, prevent_cse=False)
  _, parts = jax.lax.scan(
    lambda carry, xt: (carry, body(*xt)), (), (x_CBcD.swapaxes(0, 1), targets_CBc.swapaxes(0, 1))
  )
  return tuple(p.swapaxes(0, 1).reshape(num_rows, -1)[:, :num_positions] for p in parts)
