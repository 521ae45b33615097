"""Presets and meshes: every one is made of legal keys and does what its name says."""

import json

import pytest

from paligemma_jax import presets
from paligemma_jax.config import load
from paligemma_jax.core import errors
from paligemma_jax.core import trees
from tests import golden_files

NAMES = [
  "img/embedding/kernel",
  "img/head/bias",
  "img/head/kernel",
  "img/pos_embedding",
  "llm/embedder/input_embedding",
  "llm/final_norm/scale",
  "llm/layers/attn/q_einsum/w",
  "llm/layers/attn/attn_vec_einsum/w",
  "llm/layers/mlp/linear",
  "llm/layers/pre_ffw_norm/scale",
]


def applied(tune):
  c = load.default_config()
  presets.apply(c, tune)
  return c


def trained(tune, names=NAMES):
  optim = applied(tune).optim
  train_only = trees.matches(optim.train_only, names, "train_only") if optim.train_only else names
  return set(train_only) - trees.matches(optim.freeze, names, "freeze")


@pytest.mark.parametrize("tune", presets.TUNES)
def test_every_preset_is_legal_and_can_be_applied_twice(tune):
  c = applied(tune)
  load.validate(c, training=False)
  presets.apply(c, tune)
  load.validate(c, training=False)


@pytest.mark.parametrize(
  "tune, expected",
  [
    ("full_adam", NAMES),
    ("sgd_attention", [n for n in NAMES if "/attn/" in n]),
    ("freeze_vit", [n for n in NAMES if n.startswith("llm")]),
    ("freeze_llm", [n for n in NAMES if n.startswith("img")]),
    ("connector", ["img/head/bias", "img/head/kernel"]),
    ("full_adam+freeze_vit", [n for n in NAMES if n.startswith("llm")]),
    ("freeze_vit+adam8bit", [n for n in NAMES if n.startswith("llm")]),
    ("adafactor+ema", NAMES),
    ("freeze_llm+connector", ["img/head/bias", "img/head/kernel"]),
  ],
)
def test_what_a_preset_trains(tune, expected):
  assert trained(tune) == set(expected)


def test_sgd_attention_trains_what_the_published_notebook_changed():
  """The reference run's leaves that differ after three steps are those that the preset trains."""
  results = json.loads(golden_files.path("bv/tiny_results.json").read_text())
  run = results["optim"]["sgd_attn_notebook"]
  moved = {name for name, leaf in run["after3"].items() if leaf["l2_delta"] > 0}
  assert trained("sgd_attention", sorted(run["after3"])) == moved
  optim = applied("sgd_attention").optim
  assert optim.lr == run["base_lr"]
  assert optim.warmup == f"{run['warmup_percent']:.0%}"
  assert (optim.name, optim.grad_clip_norm, optim.wd, optim.momentum) == ("sgd", 0.0, 0.0, 0.0)


def test_keys_set_after_a_preset_win_and_a_preset_leaves_lr_of_adam_to_the_task():
  c = load.default_config()
  c.optim.update(lr=1e-5, wd=1e-6)
  presets.apply(c, "full_adam")
  assert (c.optim.lr, c.optim.wd) == (1e-5, 1e-6)
  presets.apply(c, "sgd_attention")
  c.optim.lr = 0.1
  assert c.optim.lr == 0.1


@pytest.mark.parametrize("tune", ["full_adm", "full_adam+freze_vit", "", "full_adam+"])
def test_an_unknown_preset_is_a_config_error(tune):
  with pytest.raises(errors.ConfigError, match="Unknown preset"):
    applied(tune)


def test_two_presets_that_choose_an_optimizer_are_refused():
  with pytest.raises(errors.ConfigError, match="each choose an optimizer"):
    applied("full_adam+sgd_attention")


@pytest.mark.parametrize("mesh", presets.MESHES)
def test_every_mesh_is_legal(mesh):
  c = load.default_config()
  presets.apply_mesh(c, mesh)
  assert c.mesh.shape
  load.validate(c, training=False)


def test_an_unknown_mesh_is_named_with_the_near_match():
  with pytest.raises(errors.ConfigError, match=r"Unknown mesh 'fspd'. Did you mean 'fsdp'"):
    presets.apply_mesh(load.default_config(), "fspd")
