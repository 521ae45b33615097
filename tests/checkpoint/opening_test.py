"""A run's directory is weights like any other."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paligemma_jax as pj
from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import store
from paligemma_jax.config import load as config_lib
from paligemma_jax.core import errors
from paligemma_jax.core import trees
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.trainer import setup
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir with one saved step, and the parameters in it."""
  workdir = tmp_path_factory.mktemp("run")
  config = config_lib.default_config()
  config.model.update(variant="tiny", res=28, final_logits_softcap=7.5)
  config.optim.freeze = ("img/.*",)
  model_config = variants.get("tiny", res=28, final_softcap=7.5)
  params = paligemma.init_params(model_config, jax.random.key(0))
  target = {name: np.array(array) for name, array in params.items()}
  trainable, _ = optimizers.split(params, config.optim)
  shapes = {name: params[name] for name in trainable}
  optimizer = optimizers.make(config.optim, shapes, 10, names=params, batch_size=8)
  mesh = sharding.make_mesh(config.mesh)
  state = states.make(params, trainable, optimizer, mesh, dtype=np.float32)
  config_lib.save(config, workdir / "config.json")
  files = {
    "config.json": (workdir / "config.json").read_bytes(),
    "tokenizer.model": setup.DEMO_TOKENIZER.read_bytes(),
  }
  saver = store.Checkpoints(
    workdir / "checkpoints",
    keep=1,
    best_mode="max",
    async_save=False,
    files=files,
  )
  saver.save(state)
  saver.close()
  return workdir, target, model_config


def test_of_a_run_with_averages_they_are_what_is_loaded(run, tmp_path):
  _, target, _ = run
  names = ("llm/final_norm/scale", "llm/layers/mlp/linear")
  trainable = {name: jnp.asarray(target[name]) for name in names}
  ema = {name: 2 * array for name, array in trainable.items()}
  frozen = {name: jnp.asarray(array) for name, array in target.items() if name not in names}
  state = states.TrainState(jnp.int32(1), trainable, frozen, {}, ema)
  saver = store.Checkpoints(tmp_path, keep=1, best_mode="max", async_save=False, files={})
  saver.save(state)
  saver.close()
  weights = opening.open_weights(tmp_path)
  for name in names:
    np.testing.assert_array_equal(weights.read(name), 2 * target[name])
  assert set(weights.entries) == set(target)


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/0"])
def test_a_run_loads_with_its_parameters_sizes_and_tokenizer(run, part):
  workdir, target, model_config = run
  pg = pj.load(workdir / part, dtype="float32")
  assert set(pg.params) == set(target)
  for name, array in target.items():
    assert np.array_equal(pg.params[name], array), name
  assert (
    pg.config.llm == model_config.llm and pg.config.img == model_config.img and pg.config.res == 28
  )
  assert pg.config.llm.final_softcap == 7.5  # Only the run's config knows it.
  assert pg.tokenizer.model_bytes == setup.DEMO_TOKENIZER.read_bytes()


def test_a_run_saves_as_npz_and_loads_again(run, tmp_path):
  workdir, target, _ = run
  path = pj.load(workdir, dtype="float32").save(tmp_path / "x.npz", format="npz")
  again = opening.open_weights(path)
  assert all(np.array_equal(again.read(name), array) for name, array in target.items())


def test_sizes_and_config_are_inverse():
  for variant in variants.VARIANTS:
    config = variants.get(variant, res=448, dtype="bfloat16", remat="none")
    assert opening.config_of(opening.sizes_of(config), dtype="bfloat16") == config
  assert trees.flatten(opening.sizes_of(config))["llm/query_scale"] == "width_per_head"


@pytest.fixture
def forged(run, tmp_path):
  """(folder of a step to change, what seals it again)."""
  shutil.copytree(run[0], tmp_path / "run")
  (folder,) = (tmp_path / "run" / "checkpoints").glob("[0-9]*")

  def reseal(change):
    body = json.loads((folder / manifest.SEAL).read_bytes())["body"]
    change(body)
    (folder / manifest.SEAL).write_bytes(manifest._render(body))

  return folder, reseal


@pytest.mark.parametrize("dtype", ["object", "O", "no such", "f4,f4", "(2,)f4", "U5", "int8", "V9"])
def test_a_seal_that_lies_about_dtypes_is_an_error_at_the_latest_when_it_is_read(dtype, forged):
  folder, reseal = forged

  def change(body):
    leaves = body["facts"]["leaves"]
    leaves.update({name: [dtype, shape] for name, (_, shape) in leaves.items()})

  reseal(change)
  with pytest.raises(errors.StateError, match=r"the unknown dtype|but sealed as"):
    opening.open_weights(folder).read("llm/final_norm/scale")


def test_an_array_that_is_missing_behind_an_intact_seal_is_an_error(forged):
  folder, reseal = forged
  path = folder / manifest.ARRAYS / "_METADATA"
  changed = path.read_text().replace("final_norm", "final_norx")
  assert changed != path.read_text()
  path.write_text(changed)
  name = f"{manifest.ARRAYS}/_METADATA"
  reseal(lambda body: body["files"].update({name: manifest._digest(path, sync=False)}))
  with pytest.raises(errors.StateError, match="an array that it names is missing"):
    opening.open_weights(folder)


def test_a_damaged_configuration_under_an_intact_seal_is_an_error(forged):
  folder, reseal = forged
  for text in ("{bad", "[1]", '{"model": 5}', '{"model": {"res": {}}}', "9" * 5000):
    (folder / "config.json").write_text(text)
    digest = manifest._digest(folder / "config.json", sync=False)
    reseal(lambda body, digest=digest: body["files"].update({"config.json": digest}))
    with pytest.raises((errors.StateError, errors.ConfigError)):
      opening.open_weights(folder)
