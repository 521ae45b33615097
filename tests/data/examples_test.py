"""A column that nobody reads is told of; one that is read, or that every source has, is not."""

import pytest

from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.data import examples

ROW = {"image": b"x", "prefix": "what?", "suffix": "a cat", "question_id": 3, "image_path": "a.png"}


def logged(row, ops, *evaluators):
  return list(examples.warnings([row], ops, evaluators))


def test_a_prefix_that_an_op_replaces_is_named_with_the_op_and_an_example():
  (first, second) = logged(ROW, (pp.Decode(), pp.Format("caption en")))
  assert "'prefix' of the data is not used: Format replaces it" in first and "what?" in first
  assert second == "columns of the data that are not used: question_id"


@pytest.mark.parametrize(
  "ops",
  [
    (pp.Decode(),),
    (pp.Format("answer en {prefix}"), pp.Decode()),
    (pp.Copy("prefix", "question"), pp.Format("caption en")),
  ],
)
def test_a_prefix_that_is_read_is_not_told_of(ops):
  row = {k: v for k, v in ROW.items() if k != "question_id"}
  assert logged(row, ops) == []


def test_what_an_evaluator_reads_is_read():
  source = sources.InMemory(({},))
  evaluator = evals.ExactMatch("val/em", source, (pp.Copy("question_id", "id"),))
  assert logged(ROW, (pp.Decode(),), evaluator) == []
  nested = {**ROW, "objects": {"bbox": [[1]]}, "objects/bbox": [[1]], "question_id": 1}
  ops = (pp.Boxes(bins=1024, key="objects/bbox", labels="prefix", out="text"),)
  assert logged(nested, ops, evaluator) == []
