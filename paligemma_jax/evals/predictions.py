"""What a model says and how sure it is: perplexity of the true answers, predictions as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
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

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
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


_OWN_KEYS = ("row", "prompt", "text", "logprob")


@spec.spec
class WritePredictions(base.Evaluator):
  """Writes `predictions/<name>-<step>.jsonl`: what was asked, what is true, what the model said.

  One line per row, in the order of the source.

  Attributes:
    keep: columns of the row that are written beside the prediction, the target for instance.
  """

  keep: tuple[str, ...] = ("suffix",)

  def __post_init__(self):
    if any(name in _OWN_KEYS for name in self.keep):
      raise errors.ConfigError(
        f"evals.WritePredictions: keep={self.keep!r} must be a tuple of columns, none of them"
        f" called {', '.join(_OWN_KEYS)}: those are written anyway."
      )

  def columns(self) -> tuple[str, ...]:
    """The prompt and the columns to keep."""
    return ("prefix", *(name for name in self.keep if name != "prefix"))

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """`num` rows written and their mean log-probability, `logprob`."""
    del rows
    return {"logprob": base.mean(o.logprob for o in outputs), "num": float(len(outputs))}

  def files(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, str]:
    """{name below `predictions/`: JSON lines}; the runner puts `-<step>` before the suffix."""
    lines = []
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      with base.of_row(i):
        kept = {name: _plain(row, name) for name in self.keep}
        line = {"row": out.row, "prompt": base.column(row, "prefix"), **kept}
      line |= {"text": out.text, "logprob": out.logprob}
      lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return {f"{self.name}.jsonl": "".join(lines)}


def _plain(row: base.Row, name: str) -> Any:
  """A column as JSON can hold it."""
  value = base.column(row, name)
  if isinstance(value, (np.generic, np.ndarray)):
    value = value.tolist()
  try:
    json.dumps(value)
  except (TypeError, ValueError):
    raise errors.DataError(
      f"column {name!r} is a {type(value).__name__}, which JSON cannot hold; leave it out of"
      " `keep`."
    ) from None
  return value
