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

    def line(row: base.Row, out: base.Output) -> str:
      kept = {name: _plain(row, name) for name in self.keep}
      written = {"row": out.row, "prompt": base.column(row, "prefix"), **kept}
      written |= {"text": out.text, "logprob": out.logprob}
      return json.dumps(written, ensure_ascii=False) + "\n"

    return {f"{self.name}.jsonl": "".join(base.each(line, rows, outputs))}


def _plain(row: base.Row, name: str) -> Any:
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
    found = base.each(self._answer, rows, outputs)
    replaced = [answer != out.text for (_, answer), out in zip(found, outputs, strict=True)]
    return {
      "num": float(len(found)),
      "empty": float(sum(not answer for _, answer in found)),
      "replaced": float(sum(replaced)),
      "duplicates": float(len(found) - len({id_ for id_, _ in found})),
    }

  def files(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, str]:
    """{name below `predictions/`: JSON}; the runner puts `-<step>` before the suffix."""
    form, found = FORMATS[self.format], base.each(self._answer, rows, outputs)
    content: Any = {id_: {form.answer_key: answer} for id_, answer in found}
    if form.id_key:
      content = [{form.id_key: id_, form.answer_key: answer} for id_, answer in found]
    return {f"{self.name}.json": json.dumps(content)}

  def _id_column(self) -> str:
    return self.question_id or self.image_id or FORMATS[self.format].column

  def _answer(self, row: base.Row, out: base.Output) -> tuple[Id, str]:
    """The row's id and its answer, or the choice that replaces it."""
    name = self._id_column()
    value = base.column(row, name)
    with errors.within(f"column {name!r}"):
      found = as_id(FORMATS[self.format], value)
    choices = base.answers(row, self.choices) if self.choices else ()
    if not choices or out.text in choices:
      return found, out.text
    # With the fewest edits, the first of a tie.
    text = out.text.lower()
    return found, min(choices, key=lambda choice: vqa.levenshtein(text, choice.lower()))


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


def as_id(form: Format, value: Any) -> Id:
  """A row's id in the server's type; DataError for anything else."""
  value = value.item() if isinstance(value, np.generic) else value
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  if is_whole or (isinstance(value, str) and value and (form.id_type is str or value.isdecimal())):
    return form.id_type(value)
  kind = "a whole number" if form.id_type is int else "a text"
  raise errors.DataError(f"the id {value!r} is not {kind}, which the server wants.")
