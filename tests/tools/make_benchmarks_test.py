"""docs/benchmarks.md says what the transfers say."""

import importlib

import pytest

from tools import make_benchmarks
from tools import try_transfers
from tools.prepare import __main__ as prepare


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


@pytest.mark.parametrize(
  ("score", "shown"),
  [(None, "–"), (82.0, "82.0"), (76.90, "76.9"), (141.92, "141.92"), (7, "7.0")],
)
def test_scores_have_a_decimal(score, shown):
  assert make_benchmarks._number(score) == shown


def test_no_character_of_a_prompt_is_swallowed_when_it_is_shown():
  assert make_benchmarks._visible("answer en  {a} \t {b}\n") == "answer en␣␣{a} ⇥ {b}⏎"


@pytest.mark.parametrize("name", try_transfers.names())
def test_a_section_says_what_the_page_says_and_where_the_data_is(name):
  module = importlib.import_module(f"transfers.{name}")
  section = make_benchmarks._section(name, module)
  for paragraph in module.__doc__.strip().split("\n\n"):
    assert paragraph.startswith(" ") or paragraph in section
  for dataset in try_transfers.datasets(module.get_config()):
    if dataset.partition("/")[0] in prepare.module_names():
      assert prepare.datasets_of(dataset)[0].homepage in section


def test_every_page_names_its_benchmark_in_the_table_and_a_section():
  text = make_benchmarks.PATH.read_text(encoding="utf-8")
  for name in try_transfers.names():
    assert f"\n## {name}\n" in text and f"[{name}](#{name})" in text
