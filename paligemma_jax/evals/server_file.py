"""The file of answers that a benchmark's test server takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import edits
from paligemma_jax.evals import output
from paligemma_jax.evals import server_formats


@spec.spec
class ServerFile(base.Evaluator):
  """Writes `predictions/<name>-<step>.json` in the format of a test server.

  Before sending it, let `python tools/check_submission.py` compare it with the official questions.

  Attributes:
    format: a name in `server_formats.FORMATS`.
    question_id, image_id: the column that holds the id, where it is not the format's own.
    choices: for 'aokvqa_mc', the column of the choices: an answer that is none of them, which the
      server refuses, is replaced by the one with the fewest edits; '' replaces nothing.
  """

  format: str = "vqav2"
  question_id: str = ""
  image_id: str = ""
  choices: str = ""

  def __post_init__(self):
    errors.pick(server_formats.FORMATS, self.format, "format of a test server")

  def columns(self) -> tuple[str, ...]:
    """The column of the id, and that of the choices."""
    return tuple(name for name in (self._id_column(), self.choices) if name)

  def score(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> dict[str, float]:
    """`num` answers; how many are `empty`, were `replaced`, or have the id of an earlier row."""
    ids, answers, num_replaced = self._answers(rows, outputs)
    return {
        "num": float(len(ids)),
        "empty": float(sum(not answer for answer in answers)),
        "replaced": float(num_replaced),
        "duplicates": float(len(ids) - len(set(ids))),
    }

  def files(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> dict[str, str]:
    """{name below `predictions/`: JSON}; the runner puts `-<step>` before the suffix."""
    ids, answers, _ = self._answers(rows, outputs)
    content = server_formats.content(server_formats.FORMATS[self.format], ids, answers)
    return {f"{self.name}.json": json.dumps(content)}

  def _id_column(self) -> str:
    own = server_formats.FORMATS[self.format].column
    return self.question_id or self.image_id or own

  def _answers(
      self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[output.Output]
  ) -> tuple[list[server_formats.Id], list[str], int]:
    """(ids, answers, how many of them were replaced by a choice)."""
    form, name = server_formats.FORMATS[self.format], self._id_column()
    ids, answers, num_replaced = [], [], 0
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      try:
        ids.append(server_formats.as_id(form, base.column(row, name, i)))
      except errors.DataError as e:
        raise errors.DataError(f"Row {i} of those to write: column {name!r}: {e}") from None
      answer = out.text
      if self.choices:
        choices = base.answers_of(base.column(row, self.choices, i), self.choices, i)
        answer = _nearest(out.text, choices)
      num_replaced += answer != out.text
      answers.append(answer)
    return ids, answers, num_replaced


def _nearest(text: str, choices: Sequence[str]) -> str:
  """The choice with the fewest edits, of equally near ones the first."""
  if not choices or text in choices:
    return text
  return min(choices, key=lambda choice: edits.levenshtein(text.lower(), choice.lower()))
