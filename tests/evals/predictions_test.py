"""The predictions file: readable line by line, true to what came in."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT, st.floats(allow_nan=False, allow_infinity=False))))
def test_every_line_reads_back_as_it_was(items):
  rows = [{"prefix": prompt, "suffix": target, "image": b"x"} for prompt, target, _, _ in items]
  outputs = [evals.Output(i, text, logprob=p) for i, (_, _, text, p) in enumerate(items)]
  files = evals.WritePredictions("val/pred", None).files(rows, outputs)
  lines = files["val/pred.jsonl"].split("\n")
  assert lines.pop() == ""
  assert [json.loads(line) for line in lines] == [
    {"row": i, "prompt": prompt, "suffix": target, "text": text, "logprob": p}
    for i, (prompt, target, text, p) in enumerate(items)
  ]


def test_the_kept_columns_are_written_and_asked_for():
  spec = evals.WritePredictions("p", None, keep=("id", "answers"))
  assert spec.columns() == ("prefix", "id", "answers")
  row = {"prefix": "q", "id": np.int64(7), "answers": np.array(["a", "b"])}
  line = json.loads(spec.files([row], [evals.Output(3, "a", logprob=-0.5)])["p.jsonl"])
  assert line == {
    "row": 3,
    "prompt": "q",
    "id": 7,
    "answers": ["a", "b"],
    "text": "a",
    "logprob": -0.5,
  }
  assert spec.score([row], [evals.Output(3, "a", logprob=-0.5)]) == {"logprob": -0.5, "num": 1.0}


def test_what_json_cannot_hold_is_an_error_that_names_the_column():
  spec = evals.WritePredictions("p", None, keep=("image",))
  with pytest.raises(errors.DataError, match="'image' is a bytes"):
    spec.files([{"prefix": "q", "image": b"x"}], [evals.Output(0)])


@pytest.mark.parametrize("keep", [("text",), ("suffix", "row"), "suffix"])
def test_columns_that_would_hide_the_prediction_are_refused(keep):
  with pytest.raises(errors.ConfigError, match="keep"):
    evals.WritePredictions("p", None, keep=keep)


def test_the_registry_holds_every_evaluator_under_its_own_name():
  for name, cls in evals.EVALUATORS.items():
    assert cls.__name__ == name and issubclass(cls, evals.Evaluator)
    spec = cls("val/x", None)
    assert spec.encoding in ("train", "decode")
    assert isinstance(spec.columns(), tuple)
    assert set(spec.score([], [])) >= {"num"}
