"""The config of docs/extending.md is valid, its parts do what the page says, and it trains."""

import contextlib
import io
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


@contextlib.contextmanager
def _tables(folder):
  with contextlib.closing(sqlite3.connect(folder / "data" / "pets.sqlite")) as file, file:
    yield file


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder with the page's blocks as mine.py, and data for it."""
  (tmp_path / "mine.py").write_text("\n\n".join(BLOCKS))
  (tmp_path / "data").mkdir()
  rng = np.random.default_rng(0)
  with _tables(tmp_path) as file:
    for name in ("train", "val"):
      file.execute(f"create table {name} (image blob, question text, answer text)")
      for i in range(8):
        png = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(png, "PNG")
        row = (png.getvalue(), "how many?", f"{i} cats")
        file.execute(f"insert into {name} values (?, ?, ?)", row)
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
  assert rows.where(3) == "data/pets.sqlite, train 4"


def test_a_row_without_its_image_is_a_bad_one_and_other_rows_have_another_fingerprint(folder):
  source = configs.load("mine.py").train.source
  fingerprints = [source.open().fingerprint() for _ in range(2)]
  with _tables(folder) as file:
    file.execute("update train set image = null where rowid = 3")
  rows = source.open()
  fingerprints.append(rows.fingerprint())
  with pytest.raises(pj.DataError, match=r"data/pets\.sqlite, train 3: it has no image"):
    rows[2]
  with _tables(folder) as file:
    file.execute("delete from train where rowid = 3")
  rows = source.open()
  fingerprints.append(rows.fingerprint())
  assert len(rows) == 7 and rows[2]["answer"] == "3 cats"
  assert fingerprints[0] == fingerprints[1] and len(set(fingerprints)) == 3


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
