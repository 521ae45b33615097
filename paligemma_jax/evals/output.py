"""What the model said about one row, as evaluators see it. No device, no array."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Output:
  """One row's result: the text fields with the decode encoding, the sums with the train encoding.

  Attributes:
    row: the row's number in its source.
    text: the decoded answer, without eos.
    tokens: the decoded token ids, eos included where it came.
    logprob: sum of the log-probabilities of `tokens`, in nats.
    token_logprobs: the log-probability of each of `tokens`, in nats.
    token_ends: where in `text` what each of `tokens` wrote ends, in characters.
    loss_sum: sum of -log p over the row's supervised tokens (suffix and eos), in nats.
    num_tokens: how many tokens were supervised.
    num_correct: how many of them were the most probable ones.
  """

  row: int
  text: str = ""
  tokens: tuple[int, ...] = ()
  logprob: float = 0.0
  token_logprobs: tuple[float, ...] = ()
  token_ends: tuple[int, ...] = ()
  loss_sum: float = 0.0
  num_tokens: int = 0
  num_correct: int = 0
