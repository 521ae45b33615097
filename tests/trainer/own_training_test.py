"""A run with an optimizer, a schedule and a loss of the user's own: from the config to a resume."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import paligemma_jax as pj
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.models import variants
from paligemma_jax.planning import runs
from paligemma_jax.trainer import resume
from paligemma_jax.trainer import setup as setups
from paligemma_jax.trainer import workdir as workdirs
from tests import run_train

_NEIGHBOUR = """
import pathlib
import jax

pathlib.Path(__file__).with_name("imported").touch()


def squared_nll(logits, targets):
  ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
  target = jax.numpy.where(ids == targets[..., None], jax.nn.log_softmax(logits), 0).sum(-1)
  return target**2
"""
_CONFIG = """
import jax.numpy as jnp
import optax
import paligemma_jax as pj
from paligemma_jax import pp
from paligemma_jax import sources


def lion(optim):
  return optax.scale_by_lion(b1=optim.b1, b2=optim.b2)


def falling(step, total):
  return 1.0 - step / (total + 1)


@pj.sweepable
def get_config(total: str = "2 steps"):
  c = pj.default_config()
  c.model.update(variant="tiny", res=28, overrides={"llm": {"depth": 1}, "img": {"depth": 1}})
  ops = (pp.Decode(), pp.Resize(28))
  rows = sources.Scenes(split="train", num_rows=8, size=56)
  c.train.update(source=rows, pp=ops, text_len=40, batch_size=4, total=total)
  c.train.loss = "beside_own_training:squared_nll"
  c.optim.update(custom=lion, custom_schedule=falling, warmup="", lr=1e-3, freeze=("img/.*",))
  c.ckpt.every = "1 steps"
  c.log.update(every="1 steps", tensorboard=False)
  return c
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """The config file, in a folder from which nothing can be imported, with a module beside it."""
  folder = tmp_path_factory.mktemp("own")
  (folder / "beside_own_training.py").write_text(_NEIGHBOUR)
  (folder / "own_training.py").write_text(_CONFIG)
  yield folder / "own_training.py"
  _forget()


def _forget():
  for name in ("beside_own_training", "config_file_own_training"):
    sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
  return pj.train(str(config), tmp_path_factory.mktemp("run") / "own")


def _elsewhere(*arguments, **env):
  """A process that knows of no module of this one."""
  return subprocess.run(
    [sys.executable, "-m", *map(str, arguments)],
    cwd=run_train.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow  # Two short runs of a small model; 30 s.
def test_two_steps_train_and_a_run_that_goes_on_has_the_same_bits(config, workdir):
  lines = [json.loads(line) for line in run_train.metric_lines(workdir)]
  steps = [line for line in lines if "lr" in line]
  np.testing.assert_allclose([line["lr"] for line in steps], [1e-3, 2e-3 / 3], rtol=1e-6)
  state, metrics = run_train.state_arrays(workdir), run_train.metric_lines(workdir)
  moments = [name for name in state if name.startswith("opt_state/rule/mu/")]
  assert moments and not any("/img/" in name for name in moments)
  assert all(np.abs(state[name]).max() > 0 for name in moments if name.endswith("kernel"))
  pj.train(str(config), workdir, resume_step=1)
  again = run_train.state_arrays(workdir)
  assert again.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(array, again[name], err_msg=name)
  assert run_train.metric_lines(workdir) == metrics


@pytest.mark.slow  # Uses the run above.
def test_the_loss_that_trains_is_ones_own_and_another_makes_another_run(config, workdir):
  saved = json.loads((workdir / "config.json").read_text())
  assert saved["train"]["loss"] == "beside_own_training:squared_nll"
  assert saved["optim"]["custom"].endswith(":lion")
  plain = configs.load(str(config), ["train.loss=none"])
  with pytest.raises(errors.ConfigError, match=r"train.loss: 'squared_nll' -> None"):
    resume.check_config(plain, workdirs.Workdir(workdir), allow_data_change=False)
  same = configs.load(str(config))
  assert resume.check_config(same, workdirs.Workdir(workdir), allow_data_change=False) == []


@pytest.mark.slow  # A process that compiles nothing; 10 s.
def test_a_saved_run_makes_none_of_it_run_without_consent(config, workdir):
  (config.parent / "imported").unlink(missing_ok=True)
  saved = workdir / "config.json"
  flags = ("--config", saved, "--workdir", workdir.parent / "other")
  refused = _elsewhere("paligemma_jax.train", *flags)
  assert refused.returncode == 78 and "Traceback" not in refused.stderr
  for key in ("train.loss", "optim.custom", "optim.custom_schedule"):
    assert f"{key}='" in refused.stderr
  assert "--allow_code" in refused.stderr
  assert not (config.parent / "imported").exists()
  found = pj.load(workdir)  # To use a model takes none of that code.
  assert found.params


def test_a_module_that_is_missing_is_one_sentence(config):
  moved = config.with_name("lost.py")
  moved.write_text(_CONFIG.replace("beside_own_training", "nowhere_to_be_found"))
  with pytest.raises(errors.ConfigError) as e:
    configs.load(str(moved))
  assert str(e.value) == (
    "train.loss: cannot import the module of 'nowhere_to_be_found:squared_nll':"
    " ModuleNotFoundError: No module named 'nowhere_to_be_found'. It must lie beside the config"
    " file, or be installed."
  )


@pytest.mark.parametrize(
  "value, message",
  [
    ("beside_own_training:squared", r"has no function 'squared'\. Did you mean 'squared_nll'"),
    ("beside_own_training:jax", "is a module; it must be a function of that module"),
    ("squared_nll", "or its name 'my_package.module:function', not 'squared_nll'"),
    ("a b:c", "must be a function"),
  ],
)
def test_a_name_of_nothing_is_one_sentence(config, value, message):
  with pytest.raises(errors.ConfigError, match=f"train.loss.*{message}"):
    configs.load(str(config), [f"train.loss={value}"])


def _top_level(logits, targets):
  return logits[..., 0] * targets


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"train.loss": lambda logits, targets: logits}, "a function at the top level of a module"),
    ({"train.loss": 3}, "train.loss must be a function at the top level of a module"),
    ({"train.loss": _top_level, "optim.label_smoothing": 0.1}, "smooth in train.loss"),
    ({"optim.custom": _top_level, "optim.name": "sgd"}, "takes the place of optim.name='sgd'"),
    ({"optim.custom": "some.module:make"}, "does not make code run"),
  ],
)
def test_what_does_not_fit_the_configuration_is_refused_before_anything_runs(
  config, changes, message
):
  c = configs.load(str(config), ["optim.custom=none"])
  for path, value in changes.items():
    section, name = path.split(".")
    c[section][name] = value
  with pytest.raises(errors.ConfigError, match=message):
    configs.validate(c, variants=variants.VARIANTS)


def test_options_of_other_optimizers_are_free_for_ones_own(config):
  c = configs.load(str(config), ["optim.momentum=0.5", "optim.rms_clip=1", "optim.eps=0"])
  configs.validate(c, variants=variants.VARIANTS)


@pytest.mark.slow  # A process that imports JAX; 8 s.
def test_the_plan_counts_its_state_in_a_process_that_finds_the_code_beside_the_config(config):
  c = configs.load(str(config))
  job = runs.job(c, "local", frames=0, num_supervised=8, compiled=False)
  [found] = runs.ask([job], "local", effort=0.0, timeout_secs=300)
  setup = setups.lay_out(c)
  trained = sum(4 * math.prod(setup.shapes[name].shape) for name in setup.trainable)
  # One moment per trainable number, two counters of steps.
  assert found["parts"]["optimizer"] == trained + 8
