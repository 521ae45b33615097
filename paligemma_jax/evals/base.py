"""The fields that every evaluator has, and how an evaluator reads a row's columns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec


@spec.spec
class Evaluator:
  """What to evaluate and when; subclasses add `encoding`, `columns` and `score`.

  An evaluator never sees a device. It says which encoding it needs, `train` (loss and correct
  tokens per row) or `decode` (text and log-probability), and which columns of the rows it reads;
  `score(rows, outputs)` is then a pure function of the two, `outputs[i]` belonging to `rows[i]`.

  Attributes:
    name: the slash path before its metrics, as in 'val/acc'.
    source: the rows.
    pp: the row ops.
    every: a duration as in '10%', '200 steps' or 'end'; '' means never while training.
    batch_size: rows per batch over all hosts.
    max_len: new tokens at most (decode encoding).
    text_len: tokens of the prompt (decode) or of prompt and answer (train).
    overflow: what happens to a row whose text is longer, as `train.overflow`: 'error', 'truncate',
      'cut' or 'drop'; a dropped row is not scored and counts in `num_rejected`, a row that was cut
      is scored and counts in `num_truncated`.
    limit: score the first so many rows; 0 means all.
    start_limit: the same before the first step, where a few rows tell enough and a run should come
      to its training; 0 means as many as ever.
    bootstrap: how often the scored rows are drawn anew for `<metric>/low` and `<metric>/high`, 95 %
      confidence intervals; 0 for none.

  How the answer is decoded:
    sampler: 'greedy', 'temperature(0.7)', 'top_k(40, 0.7)' or 'nucleus(0.9, 0.7)'.
    temperature, top_k, top_p: the same in numbers, in place of `sampler`.
    repetition_penalty: above 1 what the prompt or the answer holds becomes less likely.
    stop: a text or several, before which the answer ends. core.sampling_options says all five.
    best_of: answers drawn per row, of which the most probable one is kept.
    beam_size: above 1 a beam search.
    banned: texts of tokens that the answer must not hold, as '<eos>' or ' cat'.
    constraint: what the answer may look like, as `constraints.OneOf(("yes", "no"))`; None: any.
  """

  name: str
  source: Any
  pp: tuple = ()
  every: str = ""
  batch_size: int = 32
  max_len: int = 64
  text_len: int = 64
  overflow: str = "error"
  limit: int = 0
  start_limit: int = 0
  bootstrap: int = 0
  sampler: str = "greedy"
  best_of: int = 1
  beam_size: int = 1
  banned: tuple[str, ...] = ()
  constraint: Any = None
  temperature: float | None = None
  top_k: int = 0
  top_p: float = 1.0
  repetition_penalty: float = 1.0
  stop: str | tuple[str, ...] = ()

  encoding = "decode"


def column(row: Mapping[str, Any], name: str, i: int) -> Any:
  """`row[name]`, or a DataError that names the column, the row and the near match."""
  if name not in row:
    hint = errors.did_you_mean(name, row) if row else " The row has no columns."
    raise errors.DataError(f"Row {i} of those to score has no column {name!r}.{hint}")
  return row[name]


def answers_of(value: Any, name: str, i: int) -> tuple[str, ...]:
  """The true answers in a column: a text is one, a sequence of texts several.

  Raises:
    DataError: the value is neither.
  """
  if isinstance(value, str):
    return (value,)
  if hasattr(value, "tolist"):  # A numpy array of texts.
    value = value.tolist()
  if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
    return tuple(value)
  raise errors.DataError(
    f"Row {i} of those to score: column {name!r} holds {value!r}; expected a text or a list of"
    " texts."
  )


def plain_id(value: Any, name: str) -> Any:
  """The id in a column as JSON can hold it.

  Raises:
    DataError: it is neither a text nor a number.
  """
  value = value.item() if hasattr(value, "item") else value
  value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
  if not isinstance(value, (str, int, float)):
    raise errors.DataError(
      f"The column {name!r} is no id: it holds a {type(value).__name__}; name another one by"
      " `image_id`."
    )
  return value


def mean(values: Iterable[float]) -> float:
  """The correctly rounded mean, whatever the order of the values; 0.0 of none."""
  values = list(values)
  return math.fsum(values) / len(values) if values else 0.0


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
