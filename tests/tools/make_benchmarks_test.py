"""docs/benchmarks.md says what the transfers say."""

import importlib

import pytest

from tools import make_benchmarks
from tools import try_transfers


def test_the_document_is_up_to_date():
  written = make_benchmarks.PATH.read_text(encoding="utf-8")
  assert written == make_benchmarks.text(), "run: python tools/make_benchmarks.py"


@pytest.mark.parametrize("name", try_transfers.names())
def test_each_published_measure_is_one_that_the_page_evaluates(name):
  module = importlib.import_module(f"transfers.{name}")
  metrics = getattr(module, "METRICS", {})
  assert set(metrics) <= set(getattr(module, "PUBLISHED", {}))
  evaluators = {e.name for e in module.get_config().evals}
  for metric in metrics.values():
    assert any(metric.startswith(f"{name}/") for name in evaluators), metric


def test_every_page_names_its_benchmark_in_the_table_and_a_section():
  text = make_benchmarks.PATH.read_text(encoding="utf-8")
  for name in try_transfers.names():
    assert f"\n## {name}\n" in text and f"[{name}](#{name})" in text
