"""The config of docs/extending.md is valid, its parts do what the page says, and it trains."""

import json
import math
import os
import pathlib
import pickle
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax.config import load as configs
from paligemma_jax.models import variants

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCKS = re.findall(
  r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.DOTALL
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder with the page's blocks as mine.py, and data for it."""
  (tmp_path / "mine.py").write_text("\n\n".join(BLOCKS))
  (tmp_path / "data" / "images").mkdir(parents=True)
  rng = np.random.default_rng(0)
  for split in ("train", "val"):
    lines = ["image,question,answer"]
    for i in range(8):
      name = f"{split}{i}.png"
      pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
      Image.fromarray(pixels).save(tmp_path / "data" / "images" / name)
      lines.append(f"{name},how many?,{i} cats")
    (tmp_path / "data" / f"{split}.csv").write_text("\n".join(lines) + "\n")
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_the_config_is_valid_and_its_rows_become_examples(folder):
  config = configs.load("mine.py")
  configs.validate(config, training=True, variants=variants.VARIANTS)
  rows = pickle.loads(pickle.dumps(config.train.source.open()))
  prefixes = set()
  for seed in range(10):
    row = dict(rows[3])
    for op in config.train.pp:
      row = op(row, np.random.default_rng(seed))
    prefixes.add(row["prefix"])
  assert prefixes == {"answer en how many?", "how many?"}
  assert row["suffix"] == "3 cats" and row["image"].shape == (112, 112, 3)
  assert rows.where(3) == "data/train.csv:5"


def test_a_row_without_its_image_is_a_bad_one_and_other_rows_have_another_fingerprint(folder):
  source = configs.load("mine.py").train.source
  before = source.open().fingerprint()
  (folder / "data" / "images" / "train2.png").unlink()
  with pytest.raises(pj.DataError, match=r"data/train\.csv:4: .*train2\.png"):
    source.open()[2]
  (folder / "data" / "train.csv").write_text("image,question,answer\ntrain0.png,what?,a cat\n")
  assert source.open().fingerprint() != before


def test_the_metric_and_the_evaluator_give_what_the_page_says(folder):
  first, sure = configs.load("mine.py").evals
  rows = [{"answer": "2 cats"}, {"answer": "3 cats"}]
  outputs = [evals.Output(0, "2 dogs", logprob=math.log(0.5)), evals.Output(1, "", logprob=0.0)]
  assert first.columns() == ("answer",)
  assert first.score(rows, outputs) == {"first_word": 0.5, "num": 2.0}
  assert sure.score(rows, outputs) == {"confidence": pytest.approx(0.75)}


def test_the_tracker_keeps_the_metrics_of_a_run_also_when_steps_come_again(folder):
  (tracker,) = configs.load("mine.py").log.trackers
  for _ in range(2):
    run = tracker.make(folder / "first")
    run.text(0, {"config": "{}"})
    run.log(1, {"loss": 2.0, "lr": 0.1})
    run.close()
  with sqlite3.connect("runs.sqlite") as database:
    assert database.execute("select * from metrics order by name").fetchall() == [
      ("first", 1, "loss", 2.0), ("first", 1, "lr", 0.1),
    ]  # fmt: skip
    assert database.execute("select * from runs").fetchall() == [("first", "{}")]


@pytest.mark.slow  # A run of two steps, half a minute on two cores.
def test_the_config_trains_and_is_scored_again_from_its_folder(folder):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=False,
      env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip

  done = run(
    "paligemma_jax.train", "--config", "mine.py:total=2 steps", "--workdir", "runs/mine",
    "--config.log.tensorboard=False",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  metrics = json.loads((folder / "runs/mine/metrics.jsonl").read_text().splitlines()[-1])
  assert 0 <= metrics["val/first/first_word"] <= 1 and 0 < metrics["val/sure/confidence"] <= 1
  with sqlite3.connect(folder / "runs.sqlite") as database:
    query = "select name, value from metrics where run = 'mine' and step = ?"
    assert dict(database.execute(query, (metrics.pop("step"),)).fetchall()) == metrics
    ((config,),) = database.execute("select config from runs").fetchall()
    assert json.loads(config)["train"]["text_len"] == 32
  done = run("paligemma_jax.evaluate", "--workdir", "runs/mine")
  assert done.returncode == 78 and "--allow_code" in done.stderr
