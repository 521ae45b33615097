"""The Python in docs/data.md is a config's: every block makes sources and ops that are valid."""

import pathlib
import re

import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import spec

DATA = (pathlib.Path(__file__).resolve().parent.parent / "docs" / "data.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DATA, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_a_block_makes_a_source_and_ops_that_survive_json(block):
  made = {"sources": sources, "pp": pp}
  exec(block, made)
  train, ops = made["train"], made.get("ops", made.get("image"))
  assert spec.is_spec(train) and all(map(spec.is_spec, ops))
  assert spec.from_json(spec.to_json(train)) == train


def test_every_source_of_the_table_is_there():
  listed = re.findall(r"^\| `(\w+)` \|", DATA, re.MULTILINE)
  assert len(listed) >= 6 and set(listed) <= set(sources.SOURCES)
