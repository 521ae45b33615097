"""Parameters that the weights to start from lack: named in the config, or added by a fork."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import paligemma_jax as pj
from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import opening
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.trainer import setup as setups

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def params():
  return load.load_params(
    opening.open_weights("tiny_112"), setups.lay_out(_config("")).shapes, dtype=None
  )


def _config(init, **keys):
  config = configs.default_config()
  config.model.update(variant="tiny", res=112, dtype="float32")
  config.init = str(init)
  config.optim.lr = 1e-3
  config.update(keys)
  return config


def _npz(path, params, changes):
  arrays = {f"params/{n}": np.asarray(x) for n, x in (params | changes).items() if x is not None}
  np.savez(path, **arrays)
  return path


def _initial(config):
  logged = []
  return setups.initial_params(setups.lay_out(config), logged.append), " ".join(logged)


@pytest.mark.parametrize("stored", [None, np.zeros(7, np.float32)])
def test_a_named_parameter_starts_new_whether_it_is_missing_or_of_another_shape(
  tmp_path, params, stored
):
  path = _npz(tmp_path / "part.npz", params, {"img/head/bias": stored})
  with pytest.raises(errors.CheckpointError, match=r"init_fresh=.*img/head/bias"):
    _initial(_config(path))
  found, logged = _initial(_config(path, init_fresh=("img/head/b.*",)))
  assert "fresh (init_fresh, init_only): img/head/bias" in logged
  assert found.keys() == params.keys()
  same = [n for n in params if np.array_equal(found[n], params[n])]
  assert sorted(params.keys() - set(same)) == ["img/head/bias"]
  assert not np.any(found["img/head/bias"])  # A bias starts at 0.


def test_new_parameters_are_those_of_a_run_from_scratch(params):
  found, _ = _initial(_config("tiny_112", init_only=("img/.*",)))
  scratch, _ = _initial(_config(""))
  for name in params:
    kept = params if name.startswith("img/") else scratch
    assert np.array_equal(found[name], kept[name]), name


@pytest.mark.parametrize(
  "init, key, value, logged",
  [
    ("tiny_112", "init_fresh", ("img/heat/bias",), "init_fresh.*img/head/bias"),
    ("tiny_112", "init_only", ("img",), "init_only.*matches no parameter"),
    ("", "init_fresh", ("img/head/bias",), "without init all parameters start new"),
  ],
)
def test_a_regex_that_can_do_nothing_is_refused(init, key, value, logged):
  with pytest.raises(errors.ConfigError, match=logged):
    _initial(_config(init, **{key: value}))


def test_what_starts_new_is_not_kept_packed():
  config = _config("tiny_112", init_fresh=("llm/layers/mlp/linear",))
  config.model.quantize = "nf4"
  config.optim.freeze = ("llm/layers/mlp/.*",)
  config.model.quantize_targets = ("llm/layers/mlp/.*",)
  with pytest.raises(errors.ConfigError, match="quantized"):
    _initial(config)


_FORK = """
import paligemma_jax as pj
from paligemma_jax import evals, pp, sources


def get_config():
  c = pj.default_config()
  c.model.update(variant="tiny", res=112, dtype="float32")
  c.init = "tiny_112"
  ops = (pp.Decode(), pp.Resize(112), pp.Format("caption en"))
  rows = sources.Scenes(num_rows=8)
  c.train.update(source=rows, pp=ops, text_len=32, batch_size=2, total="3 steps")
  c.optim.update(lr=1e-3)
  c.ckpt.every = "2 steps"
  c.evals = (evals.Perplexity("val/loss", rows, ops, every="100%", text_len=32, batch_size=4),)
  c.log.update(every="1 steps", tensorboard=False)
  return c
"""


@pytest.mark.slow  # 60 s: four commands of a copy of the package, with one line more.
def test_a_parameter_of_a_fork_starts_new_is_kept_by_the_run_and_refused_by_exports(tmp_path):
  package = tmp_path / "paligemma_jax"
  shutil.copytree(_ROOT / "paligemma_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
  gemma = package / "models" / "gemma.py"
  scale = '    scale_D = self.param("scale", nn.initializers.zeros, (x.shape[-1],))\n'
  text = gemma.read_text()
  assert text.count(scale) == 1
  gain = scale.replace("scale_D", "gain_D").replace('"scale"', '"gain"')
  gemma.write_text(text.replace(scale, f"{gain}{scale}    scale_D = scale_D + gain_D\n"))
  (tmp_path / "mine.py").write_text(_FORK)

  def run(*args):
    done = subprocess.run(
      [sys.executable, "-m", *args],
      cwd=tmp_path,
      env={**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      timeout=300,
    )
    return done.returncode, done.stdout + done.stderr

  train = ("paligemma_jax.train", "--config", "mine.py", "--workdir", "run")
  code, logged = run(*train)
  assert code == os.EX_CONFIG or "missing" in logged, logged[-2000:]
  new = "--config.init_fresh=('llm/.*gain',)"
  code, logged = run(*train, new, "--config.train.total=2 steps")
  assert code == 0 and "llm/final_norm/gain" in logged, logged[-2000:]
  code, logged = run(*train, new)
  assert code == 0 and "going on from step 2" in logged, logged[-2000:]
  code, logged = run("paligemma_jax.evaluate", "--workdir", "run")
  assert code == 0, logged[-2000:]
  save = "import paligemma_jax as pj; pj.load('run').save('out', format='hf')"
  code, logged = run("timeit", "-n1", "-r1", save)
  assert code and "no place for 'llm/final_norm/gain'" in logged, logged[-2000:]
  # Without the fork the run is refused, and names what is too much.
  with pytest.raises(errors.CheckpointError, match="surplus llm/final_norm/gain"):
    pj.load(tmp_path / "run")
  assert jax.default_backend() == "cpu"
