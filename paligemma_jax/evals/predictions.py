"""Perplexity of the true answers, and predictions as files for people and test servers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import vqa


@spec.spec
class Perplexity(base.Evaluator):
  """Loss, perplexity and token accuracy on the suffix and its eos, not on prompt or padding.

  Metrics:
    loss: mean over rows of each row's mean -log p, in nats, as in training.
    nll_per_token: -log p summed over all rows, divided by the number of tokens.
    perplexity: exp(nll_per_token).
    token_accuracy: fraction of tokens that were the most probable ones.
    num, num_tokens: rows and tokens scored.
  """

  encoding = "train"

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """The metrics above; a row without a supervised token does not count."""
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
  """Writes `predictions/<name>-<step>.jsonl`: a line per row with prompt, columns and prediction.

  Attributes:
    keep: columns of the row to write, such as the target.
  """

  keep: tuple[str, ...] = ("suffix",)

  def __post_init__(self):
    if any(name in _OWN_KEYS for name in self.keep):
      raise errors.ConfigError(
        f"evals.WritePredictions: keep={self.keep!r} must be a tuple of columns, none of them"
        f" called {', '.join(_OWN_KEYS)}: those are always written."
      )

  def columns(self) -> tuple[str, ...]:
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
  """A column as a value of JSON."""
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


@spec.spec
class ServerFile(base.Evaluator):
  """Writes `predictions/<name>-<step>.json` in the format of a test server.

  `python tools/check_submission.py` compares the file with the official questions.

  Attributes:
    format: a name in `FORMATS`.
    question_id, image_id: the column of the id, if it is not the format's own.
    choices: for 'aokvqa_mc', the column of the choices: any other answer, which the server would
      reject, is replaced by the nearest choice; '' replaces nothing.
  """

  format: str = "vqav2"
  question_id: str = ""
  image_id: str = ""
  choices: str = ""

  def __post_init__(self):
    errors.pick(FORMATS, self.format, "format of a test server")

  def columns(self) -> tuple[str, ...]:
    """The columns of the id and of the choices."""
    return tuple(name for name in (self._id_column(), self.choices) if name)

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """`num` answers; how many are `empty`, `replaced`, or `duplicates` of an earlier row's id."""
    ids, answers, num_replaced = self._answers(rows, outputs)
    return {
      "num": float(len(ids)),
      "empty": float(sum(not answer for answer in answers)),
      "replaced": float(num_replaced),
      "duplicates": float(len(ids) - len(set(ids))),
    }

  def files(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, str]:
    """{name below `predictions/`: JSON}; the runner puts `-<step>` before the suffix."""
    ids, answers, _ = self._answers(rows, outputs)
    content = server_content(FORMATS[self.format], ids, answers)
    return {f"{self.name}.json": json.dumps(content)}

  def _id_column(self) -> str:
    return self.question_id or self.image_id or FORMATS[self.format].column

  def _answers(
    self, rows: Sequence[base.Row], outputs: Sequence[base.Output]
  ) -> tuple[list[Id], list[str], int]:
    """(ids, answers, how many of them were replaced by a choice)."""
    form, name = FORMATS[self.format], self._id_column()
    ids, answers, num_replaced = [], [], 0
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      answer = out.text
      with base.of_row(i):
        value = base.column(row, name)
        try:
          ids.append(as_id(form, value))
        except errors.DataError as e:
          raise errors.DataError(f"column {name!r}: {e}") from None
        if self.choices:
          answer = _nearest(out.text, base.answers(row, self.choices))
      num_replaced += answer != out.text
      answers.append(answer)
    return ids, answers, num_replaced


def _nearest(text: str, choices: Sequence[str]) -> str:
  """The choice with the fewest edits, the first of a tie."""
  if not choices or text in choices:
    return text
  return min(choices, key=lambda choice: vqa.levenshtein(text.lower(), choice.lower()))


@dataclasses.dataclass(frozen=True)
class Format:
  """A test server's format.

  Attributes:
    column: the column of our rows with the id.
    id_key: the file's key of the id; '' when the file is an object with ids as its keys.
    id_type: int or str: servers distinguish '17' from 17.
    answer_key: the file's key of the answer.
    list_key: the key of the list in the official file of questions; '' when it is a list itself.
    official_key: that list's key of the id; '' when the file is an object with ids as its keys.
    choices_key: its key of the choices, one of which is the answer; '' for any answer.
  """

  column: str
  id_key: str
  id_type: type[int] | type[str]
  answer_key: str
  list_key: str
  official_key: str
  choices_key: str = ""


FORMATS = {
  "aokvqa_da": Format("question_id", "", str, "direct_answer", "", "question_id"),
  "aokvqa_mc": Format(
    "question_id", "", str, "multiple_choice", "", "question_id", choices_key="choices"
  ),
  "coco_captions": Format("image_id", "image_id", int, "caption", "images", "id"),
  "docvqa": Format("question_id", "questionId", int, "answer", "data", "questionId"),
  "gqa": Format("question_id", "questionId", str, "prediction", "", ""),
  "infovqa": Format("question_id", "questionId", int, "answer", "data", "questionId"),
  "nocaps": Format("image_id", "image_id", int, "caption", "images", "id"),
  "stvqa": Format("question_id", "question_id", int, "answer", "data", "question_id"),
  "textvqa": Format("question_id", "question_id", int, "answer", "data", "question_id"),
  "vizwiz": Format("image_id", "image", str, "answer", "", "image"),
  "vqav2": Format("question_id", "question_id", int, "answer", "questions", "question_id"),
}

Id = int | str


def server_content(form: Format, ids: Sequence[Id], answers: Sequence[str]) -> Any:
  """The file's content for JSON; `ids[i]` belongs to `answers[i]`."""
  pairs = zip(ids, answers, strict=True)
  if form.id_key:
    return [{form.id_key: id_, form.answer_key: answer} for id_, answer in pairs]
  return {id_: {form.answer_key: answer} for id_, answer in pairs}


def as_id(form: Format, value: Any) -> Id:
  """A row's id in the server's type; DataError for anything else."""
  value = value.item() if isinstance(value, np.generic) else value
  whole = isinstance(value, int) and not isinstance(value, bool)
  if form.id_type is str and (whole or (isinstance(value, str) and value)):
    return str(value)
  if form.id_type is int and (whole or (isinstance(value, str) and value.isdecimal())):
    return int(value)
  kind = "a whole number" if form.id_type is int else "a text"
  raise errors.DataError(f"the id {value!r} is not {kind}, which the server wants.")
