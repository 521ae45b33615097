"""How well the model predicts the true answers, token by token, without decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import spec
from paligemma_jax.evals import base


@spec.spec
class Perplexity(base.Evaluator):
  """Loss, perplexity and token accuracy on the suffix and its eos; never on prompt or padding.

  Metrics:
    loss: mean over rows of each row's mean -log p, in nats; what training minimises.
    nll_per_token: -log p summed over all rows, by the number of tokens.
    perplexity: exp(nll_per_token).
    token_accuracy: share of the tokens that were the most probable ones.
    num, num_tokens: rows and tokens that were scored.
  """

  encoding = "train"

  def columns(self) -> tuple[str, ...]:
    """Nothing but the encoded text is read."""
    return ()

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics above; a row without a supervised token counts nowhere."""
    del rows
    scored = [o for o in outputs if o.num_tokens]
    num_tokens = sum(o.num_tokens for o in scored)
    nll_per_token = math.fsum(o.loss_sum for o in scored) / max(num_tokens, 1)
    return {
      "loss": base.mean(o.loss_sum / o.num_tokens for o in scored),
      "nll_per_token": nll_per_token,
      "perplexity": math.exp(nll_per_token) if nll_per_token < 700 else math.inf,
      "token_accuracy": sum(o.num_correct for o in scored) / max(num_tokens, 1),
      "num": float(len(scored)),
      "num_tokens": float(num_tokens),
    }
