"""The pages against the datasets that they name: splits that exist, files that servers take."""

import importlib
import inspect
import json
import re

import pytest

from paligemma_jax import evals
from paligemma_jax import sources
from paligemma_jax.config import load as configs
from paligemma_jax.evals import predictions
from paligemma_jax.models import variants
from tools import check_submission
from tools import try_transfers
from tools.prepare import __main__ as prepare
from tools.prepare import build

MODELS = ("paligemma_3b", "paligemma2_3b", "paligemma2_10b", "paligemma2_28b")
# The official file with the questions of each server, as the miniature has it; by the split too
# where a server has several.
QUESTIONS = {
  "aokvqa_da": "aokvqa_v1p0_test.json",
  "aokvqa_mc": "aokvqa_v1p0_test.json",
  "docvqa": "test_v1.0.json",
  "gqa": "testdev_balanced_questions.json",
  "infovqa": "infographicsVQA_test_v1.0.json",
  "stvqa": "test_task_3.json",
  "textvqa": "TextVQA_0.5.1_test.json",
  "vizwiz": "Annotations/test.json",
  "vqav2 test": "v2_OpenEnded_mscoco_test2015_questions.json",
  "vqav2 test-dev": "v2_OpenEnded_mscoco_test-dev2015_questions.json",
}


def questions_of(evaluator):
  """The file of QUESTIONS for the rows that the evaluator reads, or None."""
  form = evaluator.format
  return QUESTIONS.get(form, QUESTIONS.get(f"{form} {getattr(evaluator.source, 'split', '')}"))


def arguments(name):
  module = importlib.import_module(f"transfers.{name}")
  return module, inspect.signature(inspect.unwrap(module.get_config)).parameters


def all_configs(name):
  """The configurations of a page at its smallest and largest resolution, of dev and final runs."""
  module, known = arguments(name)
  for res in (224, 896):
    for model in MODELS if "model" in known else (None,):
      for final in (False, True) if "final" in known else (None,):
        chosen = {"res": res, "model": model, "final": final}
        yield module.get_config(**{k: v for k, v in chosen.items() if v is not None})


@pytest.mark.parametrize("name", try_transfers.names())
def test_every_size_and_both_kinds_of_run_are_valid(name, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  for config in all_configs(name):
    trains = config.train.source is not None
    configs.validate(config, training=trains, variants=variants.VARIANTS)


@pytest.mark.parametrize("name", try_transfers.names())
def test_every_split_that_is_read_is_built(name):
  for config in all_configs(name):
    for spec in try_transfers.specs_in(config.to_dict()):
      module = spec.name.partition("/")[0] if isinstance(spec, sources.Tfds) else ""
      if module in prepare.module_names():
        built = importlib.import_module(f"tests.miniatures.{module}").EXPECTED
        read = {re.split(r"\[", part)[0].strip() for part in spec.split.split("+")}
        assert spec.name in built and read <= set(built[spec.name]), spec


@pytest.mark.parametrize("name", try_transfers.names())
def test_choosing_settings_never_scores_rows_that_it_trains_on(name):
  module, known = arguments(name)
  if "final" not in known:
    pytest.skip("the page has one kind of run")
  config = module.get_config(final=False)
  whole = {
    (spec.name, part.strip())
    for spec in try_transfers.specs_in(config.train.source)
    if isinstance(spec, sources.Tfds)
    for part in spec.split.split("+")
    if "[" not in part
  }
  for evaluator in config.evals:
    if isinstance(evaluator.source, sources.Tfds) and "minitrain" not in evaluator.name.split("/"):
      parts = evaluator.source.split.split("+")
      scored = {(evaluator.source.name, part.partition("[")[0].strip()) for part in parts}
      assert not scored & whole, evaluator.name


SERVER_PAGES = [
  (name, evaluator)
  for name in try_transfers.names()
  for evaluator in importlib.import_module(f"transfers.{name}").get_config().evals
  if isinstance(evaluator, evals.ServerFile) and questions_of(evaluator)
]


@pytest.mark.parametrize(("name", "evaluator"), SERVER_PAGES, ids=lambda x: getattr(x, "name", x))
def test_a_server_takes_the_file_of_all_its_questions(name, evaluator, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
  module = evaluator.source.name
  importlib.import_module(f"tests.miniatures.{module}").make(tmp_path / "raw")
  build.write(prepare.datasets_of(module)[0], tmp_path / "raw", tmp_path / "data")
  opened = evaluator.source.open()
  rows = [{c: opened[i][c] for c in evaluator.columns()} for i in range(len(opened))]
  outputs = [evals.Output(row=i, text=f"no choice {i}") for i in range(len(rows))]
  (text,) = evaluator.files(rows, outputs).values()
  form = predictions.FORMATS[evaluator.format]
  questions = json.loads((tmp_path / "raw" / questions_of(evaluator)).read_text())
  wanted = check_submission.official(form, questions)
  assert len(wanted) == len(rows)
  assert list(check_submission.problems_of(form, json.loads(text), wanted)) == []


@pytest.mark.parametrize("name", try_transfers.names())
def test_sgd_keeps_its_own_learning_rate(name):
  """The rates of pages are Adam's: by SGD on the attention they would teach nothing."""
  module, known = arguments(name)
  if "tune" not in known:
    pytest.skip("a page with one way to train")
  optim = module.get_config(tune="sgd_attention").optim
  assert (optim.name, optim.lr, optim.wd) == ("sgd", 0.03, 0.0)
  assert module.get_config().optim.lr < 1e-3
