"""What is built in has what the protocols ask for, and what can be left out can be."""

import pytest

from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import protocols
from tests.core import stand_ins
from tests.data import rows_and_ops


def _with(cls, *members):
  """Names of the classes that have these members, fields without a default too."""
  return [
    name for name, c in cls.items() if all(m in {*dir(c), *c.__annotations__} for m in members)
  ]


def test_all_that_is_built_in_has_the_members_that_are_asked_for():
  assert _with(sources.SOURCES, "open", "makes") == list(sources.SOURCES)
  assert _with(pp.OPS, "__call__", "needs", "makes") == list(pp.OPS)
  for name, cls in evals.EVALUATORS.items():
    assert isinstance(cls("x", None), protocols.Evaluator), name
  assert isinstance(sources.InMemory(({"prefix": "a"},)), protocols.Source)
  assert isinstance(pp.Decode(), protocols.Op)


@pytest.mark.parametrize(
  ("protocol", "thing", "other"),
  [
    (protocols.Source, stand_ins.Rows(), stand_ins.RESIZE),
    (protocols.Op, stand_ins.RESIZE, stand_ins.Rows()),
    (protocols.CanSetSize, stand_ins.RESIZE, pp.Decode()),
    (protocols.CanDrawImage, pp.RandomCrop(224), pp.Decode()),
    (protocols.Evaluator, stand_ins.Judge("x"), stand_ins.Rows()),
    (protocols.CanCompare, evals.ExactMatch("x", None), evals.ErrorRate("x", None)),
    (protocols.CanWriteFiles, evals.ServerFile("x", None), evals.ErrorRate("x", None)),
    (protocols.CanReadMasks, evals.Segmentation("x", None), evals.ErrorRate("x", None)),
  ],
  ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_thing_has_it_and_another_has_not(protocol, thing, other):
  assert isinstance(thing, protocol)
  assert not isinstance(other, protocol)


def test_rows_have_a_name_and_ops_where_they_say_so():
  rows = rows_and_ops.Rows(3)
  assert protocols.where(rows, 1) == "rows.txt:2" and protocols.own_ops(rows, 1) == ()
  assert protocols.where([{}, {}], 1) == "row 1"
  parts = (sources.Part(sources.InMemory(({"a": 1},)), pp=(pp.Lower("a"),)),)
  mixed = sources.Mixture(parts).open()
  assert protocols.own_ops(mixed, 0) == (pp.Lower("a"),)
  assert isinstance(mixed, protocols.CanMix) and not isinstance(rows, protocols.CanMix)
