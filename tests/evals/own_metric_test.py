"""The metric that docs/metrics.md shows trains and evaluates from a config file as it stands."""

import json
import pathlib
import re
import subprocess
import sys

from paligemma_jax import evals
from paligemma_jax.trainer import metrics
from tests import run_train

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
METRIC = re.search(r"```python\n(@pj.spec\n.*?)```", PAGE, re.DOTALL)[1]
CONFIG = """
import paligemma_jax as pj
from paligemma_jax import pp, sources

{metric}

  def summary(self, table):
    return {{**super().summary(table), "shortest": float(table["length"].min(initial=9.0))}}


def get_config():
  c = pj.default_config()
  c.model.update(variant="tiny", res=28, overrides={{"llm": {{"depth": 1}}, "img": {{"depth": 1}}}})
  rows = sources.Scenes(num_rows=8, size=56)
  ops = (pp.Resize(28),)
  c.train.update(source=rows, pp=ops, text_len=32, batch_size=4, total="2 steps")
  c.optim.lr = 1e-3
  c.log.update(every="1 steps", tensorboard=False)
  c.evals = (
    Length("val/own", rows, ops, every="end", max_len=4, text_len=32, bootstrap=20, limit=5),
  )
  c.ckpt.best = "val/own/shortest"
  return c
"""


def test_a_metric_of_ten_lines_trains_and_evaluates(tmp_path):
  assert METRIC.strip().count("\n") < 12
  config = tmp_path / "own-metric.py"
  config.write_text(CONFIG.format(metric=METRIC.rstrip()), encoding="utf-8")
  done = run_train.run(str(config), tmp_path / "run")
  assert done.returncode == 0, done.stderr
  last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]
  found = {k.removeprefix("val/own/"): v for k, v in last.items() if k.startswith("val/own/")}
  assert found["num"] == 5 and 0 <= found["same"] <= 1
  assert found["shortest"] <= found["length/low"] <= found["length"] <= found["length/high"]
  done = subprocess.run(
    [sys.executable, "-m", "paligemma_jax.evaluate"]
    + ["--workdir", str(tmp_path / "run"), "--config", str(config)],
    cwd=run_train.ROOT,
    text=True,
    capture_output=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  again = json.loads(done.stdout)
  assert again["val/own/length"] == found["length"] and again["val/own/num"] == 5


def test_the_page_lists_the_metrics_there_are():
  listed = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE)
  assert listed == [(name, cls.__name__) for name, cls in evals.METRICS.items()]
