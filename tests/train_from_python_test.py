"""paligemma_jax.train: the command from Python, whatever was imported first."""

import inspect
import json
import os
import pathlib
import subprocess
import sys

import pytest

import paligemma_jax
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from tests import run_train

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHORT = "configs/tiny.py:steps=2"


@pytest.mark.parametrize(
  "statement",
  [
    "import paligemma_jax",
    "import paligemma_jax.train",
    "from paligemma_jax import train",
    "import paligemma_jax; paligemma_jax.train; import paligemma_jax.train",
    "import paligemma_jax.train; from paligemma_jax import train",
    "import importlib, paligemma_jax; importlib.import_module('paligemma_jax.train')",
  ],
)
def test_it_can_be_called_in_every_order_of_imports(statement):
  code = f"""{statement}
import sys, paligemma_jax
assert callable(paligemma_jax.train) and paligemma_jax.train.main
assert "jax" not in sys.modules
try:
  paligemma_jax.train("nonesuch.py", "w")
except paligemma_jax.ConfigError as e:
  print(e)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert "no config file 'nonesuch.py'" in done.stdout


def test_its_arguments_are_those_of_the_function():
  from paligemma_jax import train as module

  parameters = list(inspect.signature(module.train).parameters)
  assert parameters[:2] == ["config", "workdir"]
  assert {"overrides", "allow_code", "allow_data_change", "resume_step"} <= set(parameters)


@pytest.mark.parametrize(
  "config, overrides, kind, words",
  [
    (SHORT, ["optim.lrr=1"], errors.ConfigError, r"optim\.lrr.*Did you mean"),
    (SHORT, ["train.batch_size=0"], errors.ConfigError, r"train\.batch_size"),
    (SHORT, ["init=nowhere/pt.npz"], errors.ConfigError, r"nowhere/pt\.npz"),
    (SHORT, ["train.source.num_rows=0"], errors.DataError, "no rows"),
    ({"seed": 0}, (), errors.ConfigError, "ConfigDict of default_config"),
  ],
  ids=lambda value: str(value)[:30],
)
def test_what_ends_the_command_is_raised(config, overrides, kind, words, tmp_path):
  with pytest.raises(errors.PaligemmaError, match=words) as caught:
    paligemma_jax.train(config, tmp_path / "w", overrides=overrides)
  assert isinstance(caught.value, kind | errors.CheckpointError)


def test_a_workdir_that_cannot_be_made_is_an_error_of_ours(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.WorkdirError):
    paligemma_jax.train(SHORT, tmp_path / "file" / "w")


@pytest.mark.slow  # Compiles and trains two steps, twice.
def test_a_configuration_and_a_file_train_alike_and_as_the_command_does(tmp_path):
  overrides = ["evals=none", ("seed", "3")]
  config = configs.load(SHORT)
  before = config.to_json_best_effort()
  path = paligemma_jax.train(config, tmp_path / "a", overrides=overrides)
  assert path == tmp_path / "a" and config.to_json_best_effort() == before
  flags = ("--config.evals=none", "--config.seed=3")
  done = run_train.run(SHORT, tmp_path / "b", *flags)
  assert done.returncode == 0, done.stderr
  assert run_train.metric_lines(tmp_path / "a") == run_train.metric_lines(tmp_path / "b")
  assert _config(tmp_path / "a") == _config(tmp_path / "b")
  with pytest.raises(errors.ConfigError, match="seed: 3 -> 0"):
    paligemma_jax.train(SHORT, tmp_path / "a", overrides=["evals=none"])
  # Going on with a finished run is no error, and it can be read.
  paligemma_jax.train(config, tmp_path / "a", overrides=overrides)
  assert paligemma_jax.load(path).generate([None], ["x"], max_new_tokens=1)


def _config(workdir):
  return json.loads((workdir / "config.json").read_text())


@pytest.mark.slow  # Compiles and trains a step.
def test_it_trains_in_a_thread_too(tmp_path):
  code = f"""
import threading, paligemma_jax
def run():
  print(paligemma_jax.train({SHORT!r}, {str(tmp_path / "w")!r}, overrides=["evals=none"]))
thread = threading.Thread(target=run); thread.start(); thread.join()
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
  )
  assert done.stdout.strip() == str(tmp_path / "w"), done.stderr
