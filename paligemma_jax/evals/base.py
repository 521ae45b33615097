"""The base of evaluators: options, scores by row, columns, confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import prng
from paligemma_jax.core import spec

T = TypeVar("T")
Row = Mapping[str, Any]
# float64[rows] by name; NaN where a row does not count.
Table = dict[str, np.ndarray]

NONE = float("nan")  # The value of a row that does not count.


@spec.spec
class Evaluator:
  """What to evaluate and when; subclasses add `score` and its columns, or are a `Metric`.

  An evaluator needs an encoding, `train` (loss and correct tokens per row) or `decode` (text and
  log-probability), and columns of the rows; `score(rows, outputs)` is a pure function of the two,
  where `outputs[i]` belongs to `rows[i]`.

  Attributes:
    name: the slash path before its metrics, as in 'val/acc'.
    source: the rows.
    pp: the row ops.
    every: a duration as in '10%', '200 steps' or 'end'; '' is never during training.
    batch_size: examples per batch over all hosts.
    max_len: the most new tokens (decode encoding).
    text_len: tokens of the prompt (decode) or of prompt and answer (train).
    overflow: the policy for longer texts, as `train.overflow`: 'error', 'truncate', 'cut' or
      'drop'; a dropped row is not scored and counts in `num_rejected`, a row that was cut is scored
      and counts in `num_truncated`.
    limit: scores this many rows, the first; 0 is all.
    start_limit: the same before the first step; 0 is `limit`.
    bootstrap: resamples of the scored rows for `<metric>/low` and `<metric>/high`, 95 % confidence
      intervals; 0 is none.

  Options of decoding are those of `core.sampling_options`, and:
    sampler: 'greedy', 'temperature(0.7)', 'top_k(40, 0.7)' or 'nucleus(0.9, 0.7)'.
    best_of: answers sampled per row; the most probable one is kept.
    beam_size: above 1, beam search.
    banned: texts of tokens that the answer must not contain, as '<eos>' or ' cat'.
    constraint: the form of the answer, as `constraints.OneOf(("yes", "no"))`; None is any.
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

  encoding: ClassVar[str] = "decode"
  reads: ClassVar[tuple[str, ...]] = ()  # Names of the fields that name a column to read.
  may_read: ClassVar[tuple[str, ...]] = ()  # The same of fields that may be '', which reads none.
  per_output: ClassVar[tuple[str, ...]] = ()  # Fields of `Output` that `evals.score` may be given.

  if TYPE_CHECKING:  # Subclasses add it; a class without it is rejected.

    def score(self, rows: Sequence[Row], outputs: Sequence[Output]) -> dict[str, float]: ...

  def columns(self) -> tuple[str, ...]:
    """The columns of a row that `score` reads."""
    names = [getattr(self, field) for field in self.reads]
    names += [name for field in self.may_read if (name := getattr(self, field))]
    return tuple(dict.fromkeys(names))


@spec.spec
class Metric(Evaluator):
  """A metric of decoded texts that scores each row by itself; subclasses add `score_row`.

  Intervals are computed from the table of scores, so that no row is scored twice.
  """

  gives: ClassVar[tuple[str, ...]] = ()  # Columns that every table has, in their order.
  counts: ClassVar[tuple[tuple[str, str], ...]] = ()  # (name, the score whose rows are counted).

  def score_row(self, prediction: str, row: Row) -> dict[str, float]:
    """The row's scores by name, NONE or absent where it does not count; DataError of a bad row."""
    raise NotImplementedError

  def table(self, rows: Sequence[Row], outputs: Sequence[Output]) -> Table:
    """The scores of all rows; names that are not in `gives` are last, in alphabetical order."""
    found = each(lambda row, output: self.score_row(output.text, row), rows, outputs)
    others = {name for scores in found for name in scores}.difference(self.gives)
    return {
      name: np.array([scores.get(name, NONE) for scores in found], np.float64)
      for name in (*self.gives, *sorted(others))
    }

  def summary(self, table: Table) -> dict[str, float]:
    """Each score's mean, of `x/<kind>` where it has rows with their number; `counts`; `num`."""
    found: dict[str, float] = {}
    for name, values in table.items():
      _, _, kind = name.partition("/")
      if not kind:
        found[name] = mean_of(values)
      elif count(values):
        found |= {name: mean_of(values), f"num/{kind}": count(values)}
    found |= {name: count(table[score]) for name, score in self.counts}
    return {**found, "num": num_rows(table)}

  def score(self, rows: Sequence[Row], outputs: Sequence[Output]) -> dict[str, float]:
    return self.summary(self.table(rows, outputs))


def take(table: Table, rows: np.ndarray) -> Table:
  """The table of these rows, which may repeat."""
  return {name: values[rows] for name, values in table.items()}


def counting(values: np.ndarray) -> np.ndarray:
  """The values of the rows that count."""
  return values[~np.isnan(values)]


def mean(values: Iterable[float]) -> float:
  """The correctly rounded mean, whatever the order of the values; 0.0 of none."""
  values = list(values)
  return math.fsum(values) / len(values) if values else 0.0


def mean_of(values: np.ndarray) -> float:
  """The mean over the rows that count; 0.0 when none does."""
  return mean(counting(values).tolist())


def count(values: np.ndarray) -> float:
  """The number of rows that count."""
  return float(counting(values).size)


def num_rows(table: Table) -> float:
  """The number of rows, whether they count or not."""
  return float(max((len(values) for values in table.values()), default=0))


def each(function: Callable[..., T], rows: Sequence[Row], *others: Sequence[Any]) -> list[T]:
  """`function(row, …)` of each row and what belongs to it; a DataError gets the row's number."""
  found: list[T] = []
  try:
    for arguments in zip(rows, *others, strict=True):
      found.append(function(*arguments))
  except errors.DataError as e:
    raise errors.DataError(f"Row {len(found)} of those to score: {e}") from None
  return found


def column(row: Row, name: str) -> Any:
  """`row[name]`; DataError with a near match without such a column."""
  if name not in row:
    hint = errors.did_you_mean(name, row) if row else " The row has no columns."
    raise errors.DataError(f"there is no column {name!r}.{hint}")
  return row[name]


def unexpected(row: Row, name: str, expected: str) -> errors.DataError:
  """The error for a column's value."""
  return errors.DataError(f"column {name!r} holds {row[name]!r}; expected {expected}.")


def answers(row: Row, name: str) -> tuple[str, ...]:
  """The true answers in a column, a text or a sequence of texts; DataError of anything else."""
  value = column(row, name)
  if isinstance(value, str):
    return (value,)
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
    return tuple(value)
  raise unexpected(row, name, "a text or a list of texts")


def text(row: Row, name: str, expected: str) -> str:
  """The non-empty text in a column; DataError with what is expected otherwise."""
  value = column(row, name)
  if not isinstance(value, str) or not value:
    raise unexpected(row, name, expected)
  return value


def plain_id(row: Row, name: str) -> str | int | float:
  """The id in a column as a value of JSON; DataError when it is neither a text nor a number."""
  value = column(row, name)
  value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
  value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
  if not isinstance(value, (str, int, float)):
    raise errors.DataError(
      f"The column {name!r} is no id: it holds a {type(value).__name__}; name another one by"
      " `image_id`."
    )
  return value


def compared(metric: Any, prediction: str, row: Row) -> tuple[str, list[str]]:
  """The prediction and the true answers as a metric's `target`, `lower` and `strip` have them."""
  texts = [prediction, *answers(row, metric.target)]
  texts = [text.lower() for text in texts] if metric.lower else texts
  texts = [text.strip() for text in texts] if metric.strip else texts
  return texts[0], texts[1:]


def outputs_of(texts: Iterable[str]) -> list[Output]:
  """The outputs of rows with these answers."""
  return [Output(i, text) for i, text in enumerate(texts)]


@dataclasses.dataclass(frozen=True)
class Output:
  """One row's result: the text fields with the decode encoding, the sums with the train encoding.

  Attributes:
    row: the row's number in its source.
    text: the decoded answer, without eos.
    tokens: the decoded token ids, including eos if it was decoded.
    logprob: sum of the log-probabilities of `tokens`, in nats.
    token_logprobs: the log-probability of each of `tokens`, in nats.
    token_ends: the end in `text` of the characters of each of `tokens`.
    loss_sum: sum of -log p over the row's supervised tokens (suffix and eos), in nats.
    num_tokens: the number of supervised tokens.
    num_correct: how many of them were the most probable ones.
    scores: the confidence in each box of `text`, if another model gave it.
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
  scores: tuple[float, ...] | None = None


CONFIDENCE = 0.95
_AT_ONCE = 1 << 20  # Row numbers drawn at once: 8 MB.

Values = dict[str, float]


def of_evaluator(
  evaluator: Evaluator, rows: Sequence[Row], outputs: Sequence[Output], *, seed: int = 0
) -> Values:
  """`intervals` of an evaluator's metrics, from `evaluator.bootstrap` resamples of its rows."""
  if evaluator.bootstrap < 1:
    return {}
  if isinstance(evaluator, Metric):
    table = evaluator.table(rows, outputs)

    def value_of(indices: Sequence[int]) -> Values:
      return evaluator.summary(take(table, np.asarray(indices)))

  else:

    def value_of(indices: Sequence[int]) -> Values:
      return evaluator.score([rows[i] for i in indices], [outputs[i] for i in indices])

  return intervals(value_of, len(rows), num_samples=evaluator.bootstrap, seed=seed)


def intervals(
  value_of: Callable[[Sequence[int]], Values], num_rows: int, *, num_samples: int, seed: int = 0
) -> Values:
  """`<key>/low` and `<key>/high` of each metric: the middle 95 % of its values on resampled rows.

  Counts of rows (`num`, `num_…`) have none. A metric that is the mean of its values on single rows
  is not computed again for each sample, which is slow.

  `value_of` gives the metrics of the rows with these numbers, which may repeat. Of `num_rows`, of
  which fewer than two have no intervals, as many are drawn, with replacement, `num_samples` times.
  """
  if num_rows < 2 or num_samples < 1:
    return {}
  whole = value_of(range(num_rows))
  keys = [key for key in whole if not _is_count(key)]
  singles = [value_of([i]) for i in range(num_rows)]
  means = [key for key in keys if _is_mean(key, whole, singles)]
  others = [key for key in keys if key not in means]
  per_row = np.array([[single[key] for key in means] for single in singles])
  drawn: dict[str, list[float]] = {key: [] for key in keys}
  for rows in _draws(num_rows, num_samples, seed):
    # Column by column, to save memory.
    for key, column in zip(means, per_row.T, strict=True):
      drawn[key].extend(column[rows].mean(1).tolist())
    for one in rows if others else ():
      values = value_of(one)
      for key in others:
        if key in values:  # A kind of question may be missing in a sample.
          drawn[key].append(values[key])
  result: Values = {}
  for key, samples in drawn.items():
    if samples:
      low, high = np.quantile(samples, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)).tolist()
      result |= {f"{key}/low": low, f"{key}/high": high}
  return result


def _is_count(key: str) -> bool:
  return any(part == "num" or part.startswith("num_") for part in key.split("/"))


def _is_mean(key: str, whole: Values, singles: Sequence[Values]) -> bool:
  """Whether the metric is the mean over single rows."""
  if not all(key in single for single in singles):
    return False
  of_singles = mean(single[key] for single in singles)
  return math.isclose(of_singles, whole[key], rel_tol=1e-9, abs_tol=1e-12)


def _draws(num_rows: int, num_samples: int, seed: int) -> Iterator[np.ndarray]:
  """int64[some, num_rows], the rows of the samples."""
  rng = prng.generator(seed, num_rows)
  at_once = max(1, _AT_ONCE // num_rows)
  for start in range(0, num_samples, at_once):
    yield rng.integers(num_rows, size=(min(at_once, num_samples - start), num_rows))
