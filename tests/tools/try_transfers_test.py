"""Every transfer loads and fits together at every resolution; the tool that runs them all runs."""

import subprocess
import sys

import pytest

from paligemma_jax import evals
from paligemma_jax import sources
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.models import variants
from tests import run_train
from tools import try_transfers


@pytest.mark.parametrize("res", try_transfers.RESOLUTIONS)
@pytest.mark.parametrize("name", try_transfers.names())
def test_a_transfer_is_valid_at_every_resolution(name, res, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  config = try_transfers.load(name, res, tmp_path)
  trains = config.train.source is not None
  assert config.model.res == res
  configs.validate(config, training=trains, variants=variants.VARIANTS)
  classes = {type(evaluator) for evaluator in config.evals}
  assert classes - {evals.Perplexity, evals.WritePredictions}, "measures nothing but loss"
  try_transfers.make_small(config)
  configs.validate(config, training=trains, variants=variants.VARIANTS)
  assert {type(evaluator) for evaluator in config.evals} == classes | {evals.WritePredictions}


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train+validation[:-10240]", "train+validation[:-1]"),
    ("validation[-10240:]", "validation[-1:]"),
    ("train[:5120]", "train[:1]"),
    ("train[:98%]+restval", "train[:98%]+restval"),
    ("train_2014", "train_2014"),
  ],
)
def test_splits_are_cut_so_that_a_miniature_has_the_rows(split, expected):
  source = sources.Tfds("x", split)
  evaluator = evals.Pope("a", source)
  (cut,) = try_transfers.few_rows((evaluator,))
  assert cut == evaluator.replace(source=source.replace(split=expected))


# 20 s: one training run and its evaluation, with what they compile.
@pytest.mark.long
def test_the_table_tells_what_ran_and_what_did_not(tmp_path):
  out = tmp_path / "table.md"
  done = subprocess.run(
      [sys.executable, "tools/try_transfers.py", "--res", "224", "--only", "okvqa",
       "--out", str(out)],
      cwd=run_train.ROOT, text=True, capture_output=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout == out.read_text()
  cells = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")[1:-1]]
  assert cells[:3] == ["okvqa", "224", "256"] and cells[-1] == "ok"
  assert float(cells[3]) > float(cells[4]) > 0  # Two steps on the same few rows.
  assert cells[5].startswith("val/acc/acc = ") and cells[6] == "2"


def test_a_transfer_that_fails_is_told_in_its_line_and_stops_no_other(tmp_path, monkeypatch):
  monkeypatch.setattr(try_transfers, "_ROOT", tmp_path)  # Where there are no transfers.
  tried = try_transfers.try_one("okvqa", 224, tmp_path)
  assert "no config file" in tried.problem and "okvqa" in tried.problem
  assert try_transfers.table([tried]).splitlines()[-1].count(" | ") == 8
  assert "no config file" in try_transfers.table([tried])


def test_being_stopped_stops_the_whole_program(tmp_path, monkeypatch):
  def stopped(tried, folder):
    raise errors.Interrupted("SIGTERM")

  monkeypatch.setattr(try_transfers, "_try", stopped)
  with pytest.raises(errors.Interrupted):
    try_transfers.try_one("okvqa", 224, tmp_path)
