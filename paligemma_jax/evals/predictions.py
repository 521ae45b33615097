"""Predictions as a JSONL file: what was asked, what is true, what the model said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base

_OWN_KEYS = ("row", "prompt", "text", "logprob")


@spec.spec
class WritePredictions(base.Evaluator):
  """Writes `predictions/<name>-<step>.jsonl`, one line per row in the order of the source.

  Attributes:
    keep: columns of the row that are written beside the prediction, the truth for instance.
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

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """`num` rows written and their mean log-probability, `logprob`."""
    del rows
    return {"logprob": base.mean(o.logprob for o in outputs), "num": float(len(outputs))}

  def files(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, str]:
    """{name below `predictions/`: JSON lines}; the runner puts `-<step>` before the suffix."""
    lines = []
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      kept = {name: _plain(base.column(row, name, i), name, i) for name in self.keep}
      line = {"row": out.row, "prompt": base.column(row, "prefix", i), **kept}
      line |= {"text": out.text, "logprob": out.logprob}
      lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return {f"{self.name}.jsonl": "".join(lines)}


def _plain(value: Any, name: str, i: int) -> Any:
  if hasattr(value, "tolist"):  # numpy scalars and arrays
    value = value.tolist()
  try:
    json.dumps(value)
  except (TypeError, ValueError):
    raise errors.DataError(
      f"Row {i}: column {name!r} is a {type(value).__name__}, which JSON cannot hold; leave it"
      " out of `keep`."
    ) from None
  return value
