"""Generation: the prompt, then a loop on the device that stops when every row is done.

  B rows, T prompt tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paligemma_jax.decoding import sampling
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants

PAD_ID = 0

_INPUTS = ("image", "text", "mask_ar", "mask_input", "_mask", "_row")

Generate = Callable[..., dict[str, jax.Array]]


def make_generate(
    cfg: variants.ModelConfig,
    *,
    max_new_tokens: int,
    eos_id: int = 1,
    sampler: str = "greedy",
    banned: Sequence[int] = (),
    cache_dtype: Any = None,
) -> Generate:
  """`generate(params, batch, key=None)`, one compiled program per batch shape.

  The batch is a decode batch: image, text, mask_ar, mask_input; rows where `_mask` is False are
  left empty and do not hold up the stop. Other entries are ignored. Prompts may be padded on the
  right, and may end in a part of the answer (mask_ar 1). Without images, leave out `image`.

  `key` seeds sampling; a row's draws depend on the key and its `_row` number (its place in the
  batch when absent) alone, not on the batch's other rows. Greedy decoding needs none.

  It returns
    tokens         int32[B, N], the answer with its EOS, then pad 0
    lengths        int32[B], tokens in the answer, with EOS
    token_logprob  float32[B, N], log-probability of each under the model, whatever the sampler:
                   log_softmax of the logits with the final softcap if any; then 0
    logprob        float32[B], their sum

  Args:
    sampler: see `sampling.parse`.
    banned: ids that are never produced; the others' log-probabilities stay the model's.
    cache_dtype: of cached keys and values; None is the compute dtype.
  """
  choose = sampling.parse(sampler)
  banned = np.unique(np.asarray(banned, np.int32))

  @jax.jit
  def run(params, batch, key):
    text_BT, mask_input_BT = batch["text"], batch["mask_input"]
    image = batch.get("image")
    batch_size, text_len = text_BT.shape
    num_images = image.shape[1] if image is not None and image.ndim == 5 else 1
    num_image_tokens = 0 if image is None else num_images * cfg.num_image_tokens
    rows_B = jnp.asarray(batch.get("_row", jnp.arange(batch_size))).astype(jnp.uint32)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows_B)

    logits_BV, cache = paligemma.prefill(
        cfg,
        params,
        image,
        text_BT,
        batch["mask_ar"],
        mask_input_BT,
        # The last new token is never fed back.
        cache_len=num_image_tokens + text_len + max_new_tokens - 1,
        cache_dtype=cache_dtype,
    )

    def pick(step, logits_BV, done_B):
      """The tokens of this step and their log-probabilities; pad and 0 in rows that are done."""
      step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
      token_B = choose(_without(logits_BV, banned), step_keys_B)
      logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
      logprob_B = logit_B - jax.nn.logsumexp(logits_BV, axis=1)
      return jnp.where(done_B, PAD_ID, token_B), jnp.where(done_B, 0.0, logprob_B)

    def unfinished(carry):
      step, _, _, done_B, _, _ = carry
      return (step < max_new_tokens) & ~jnp.all(done_B)

    def one_more(carry):
      step, token_B, cache, done_B, tokens_BN, logprob_BN = carry
      logits_BV, cache = paligemma.extend(cfg, params, token_B, cache)
      token_B, logprob_B = pick(step, logits_BV, done_B)
      tokens_BN = tokens_BN.at[:, step].set(token_B)
      logprob_BN = logprob_BN.at[:, step].set(logprob_B)
      return step + 1, token_B, cache, done_B | (token_B == eos_id), tokens_BN, logprob_BN

    mask_B = batch.get("_mask")
    empty_B = jnp.zeros(batch_size, bool) if mask_B is None else ~mask_B.astype(bool)
    token_B, logprob_B = pick(0, logits_BV, empty_B)
    shape = (batch_size, max_new_tokens)
    tokens_BN = jnp.full(shape, PAD_ID, jnp.int32).at[:, 0].set(token_B)
    logprob_BN = jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob_B)
    carry = (jnp.int32(1), token_B, cache, empty_B | (token_B == eos_id), tokens_BN, logprob_BN)
    *_, tokens_BN, logprob_BN = lax.while_loop(unfinished, one_more, carry)
    return {
        "tokens": tokens_BN,
        "lengths": _lengths(tokens_BN, eos_id, empty_B),
        "token_logprob": logprob_BN,
        "logprob": jnp.sum(logprob_BN, axis=1),
    }

  def generate(
      params: Mapping[str, jax.Array], batch: Mapping[str, Any], key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """See make_generate."""
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    return run(dict(params), inputs, jax.random.key(0) if key is None else key)

  return generate


def _without(logits_BV: jax.Array, banned: np.ndarray) -> jax.Array:
  return logits_BV.at[:, banned].set(-jnp.inf) if banned.size else logits_BV


def _lengths(tokens_BN: jax.Array, eos_id: int, empty_B: jax.Array) -> jax.Array:
  """int32[B]: up to and with the first EOS; all where there is none."""
  is_eos_BN = tokens_BN == eos_id
  num_tokens = tokens_BN.shape[1]
  length_B = jnp.where(is_eos_BN.any(1), jnp.argmax(is_eos_BN, axis=1) + 1, num_tokens)
  return jnp.where(empty_B, 0, length_B).astype(jnp.int32)
