"""Whole training steps against the reference's: Adam, SGD, freezing, and its 20-step curve."""

import json

import jax
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.training import optimizers
from tests import golden_files
from tests.training import golden_model
from tests.training.optim_section import optim

_ADAM = dict(lr=1e-3, wd=0.01, grad_clip_norm=0.5, warmup="10%")
_SGD = dict(
  name="sgd", lr=0.03, grad_clip_norm=0.0, warmup="10%", train_only=("llm/layers/attn/.*",)
)


def _golden(name, run):
  text = golden_files.path(f"bv/{name}_results.json").read_text()
  return json.loads(text)["optim"][run]


def _batches():
  return [golden_model.batch(f"optim_batch{i}") for i in range(3)]


def _run(model, **changes):
  start = golden_model.params(model)
  made, trainable = golden_model.optimizer_for(optim(**changes), start, total_steps=10)
  state, history, _ = golden_model.train(
    golden_model.config(model), start, made, trainable, _batches()
  )
  return start, state, history


def _assert_curve(history, golden):
  keys = {"loss": "training_loss", "grad_norm": "l2_grads", "update_norm": "l2_updates"}
  for got, want in zip(history, golden["steps"], strict=True):
    for ours, theirs in keys.items():
      np.testing.assert_allclose(got[ours], want[theirs], rtol=2e-4, atol=1e-6, err_msg=ours)


def _assert_leaves(state, golden):
  for name, leaf in state.params.items():
    want = golden["after3"][name]
    flat = np.asarray(leaf).ravel()
    # Adam turns the sign of a gradient near 0 into a whole step of lr = 1e-3.
    np.testing.assert_allclose(flat[want["sample_idx"]], want["sample"], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["tiny", "tiny2"])
def test_three_steps_of_full_adam(name):
  start, state, history = _run(name, **_ADAM)
  _assert_curve(history, _golden(name, "adam_full"))
  assert [s["lr"] for s in history] == [0.0, *[pytest.approx(x) for x in (1e-3, 0.96984631e-3)]]
  with np.load(golden_files.path(f"bv/{name}_adam_full_after3.npz")) as f:
    assert set(f.files) == set(start)
    for leaf in f.files:
      np.testing.assert_allclose(state.params[leaf], f[leaf], rtol=0, atol=1e-4, err_msg=leaf)


@pytest.mark.slow  # Two compilations, 10 s.
@pytest.mark.parametrize("name, tower", [("tiny", "llm"), ("tiny", "img")])
def test_three_steps_with_a_frozen_tower(name, tower):
  start, state, history = _run(name, **_ADAM, freeze=(f"{tower}/.*",))
  golden = _golden(name, f"adam_freeze_{tower}")
  _assert_curve(history, golden)
  _assert_leaves(state, golden)
  assert set(state.frozen) == {leaf for leaf in start if leaf.startswith(tower)}
  for leaf, value in state.frozen.items():
    assert (np.asarray(value) == start[leaf]).all(), leaf
  # Only trainable parameters have optimizer state; the reference also counts its schedule's steps.
  assert len(jax.tree.leaves(state.opt_state)) == len(golden["opt_state_leaves"]) - 1


@pytest.mark.parametrize("name, flavour", [("tiny", "bv"), ("tiny2", "bv"), ("tiny", "notebook")])
def test_three_steps_of_attention_only_sgd(name, flavour):
  start, state, history = _run(name, **_SGD, schedule_start=int(flavour == "notebook"))
  golden = _golden(name, f"sgd_attn_{flavour}")
  key = "training_loss" if flavour == "bv" else "loss"
  np.testing.assert_allclose(
    [s["loss"] for s in history], [s[key] for s in golden["steps"]], rtol=2e-5
  )
  with np.load(golden_files.path(f"bv/{name}_sgd_attn_{flavour}_after3.npz")) as f:
    assert set(f.files) == set(state.trainable)
    for leaf, value in state.params.items():
      want = f[leaf] if leaf in f.files else start[leaf]
      atol = 2e-5 if leaf in f.files else 0.0
      np.testing.assert_allclose(value, want, rtol=0, atol=atol, err_msg=leaf)
  assert not jax.tree.leaves(state.opt_state)


@pytest.mark.slow  # 5 s, most of it compiling.
def test_three_steps_with_rules_of_every_kind():
  """Different schedules per tower, rates and decay by leaf, bfloat16 moments, label smoothing."""
  golden = _golden("tiny", "adam_mults")
  start = golden_model.params("tiny")
  section = optim(b2=0.95, mu_dtype="bfloat16", grad_clip_norm=0.5, freeze=("img/pos_embedding",))
  trainable, _ = optimizers.split(start, section)
  linear = optimizers.make_schedule(optim(schedule="linear", warmup="2 steps"), 10, batch_size=6)
  cosine = optimizers.make_schedule(optim(warmup="10%"), 10, batch_size=6)

  def mult(n):
    return 10.0 if n.startswith("img/head") else 0.5 if n.startswith("llm") else 1.0

  def wd(n):
    return 0.01 if n.endswith("/kernel") else 0.003 if n.startswith("llm/layers/mlp") else 0.0

  rule = optimizers.transform(
    section,
    schedules={n: linear if n.startswith("img") else cosine for n in trainable},
    lrs={n: 1e-3 * mult(n) for n in trainable},
    wds={n: wd(n) for n in trainable},
  )
  state, history, _ = golden_model.train(
    golden_model.config("tiny"), start, rule, trainable, _batches(), label_smoothing=0.1
  )
  _assert_curve(history, golden)
  for leaf, value in state.params.items():
    want = golden["after3"][leaf]
    # lr is 1e-2 in img/head, where a gradient near 0 moves a parameter by a whole step.
    atol = 2e-3 if leaf.startswith("img/head") else 2e-4
    flat = np.asarray(value).ravel()
    np.testing.assert_allclose(flat[want["sample_idx"]], want["sample"], atol=atol, err_msg=leaf)


def test_the_references_own_twenty_steps():
  golden = json.loads(golden_files.path("bv/train_curve.json").read_text())
  with np.load(golden_files.path("bv/train_batches.npz")) as f:
    batches = [
      golden_model.real_rows(
        {
          "image": f[f"image_u8_{i}"],
          **{key: f[f"{key}_{i}"] for key in ("text", "mask_ar", "mask_loss")},
        }
      )
      for i in range(5)
    ]
  start = golden_model.params("e2e")
  section = optim(lr=0.003, wd=0.001, grad_clip_norm=1.0, warmup="10%")
  made, trainable = golden_model.optimizer_for(section, start, total_steps=20)
  _, history, _ = golden_model.train(
    golden_model.config("e2e"), start, made, trainable, [batches[i % 5] for i in range(20)]
  )
  want = [step["training_loss"] for step in golden["steps"]]
  np.testing.assert_allclose([s["loss"] for s in history], want, rtol=1e-3)


def test_a_regex_that_matches_nothing_is_an_error():
  names = ["img/head/kernel", "llm/final_norm/scale"]
  for key, value in (("freeze", ("imgs/.*",)), ("train_only", ("llm",))):
    with pytest.raises(errors.ConfigError, match=f"optim.{key}.*matches no parameter"):
      optimizers.split(names, optim(**{key: value}))
  with pytest.raises(errors.ConfigError, match=r"optim\.lr_mults"):
    shapes = {name: np.zeros(2, np.float32) for name in names}
    optimizers.make(optim(lr_mults=(("imgs", 2.0),)), shapes, 10, names=names, batch_size=1)


def test_freezing_everything_is_an_error():
  with pytest.raises(errors.ConfigError, match=r"no parameter to train"):
    optimizers.split(["img/a"], optim(freeze=(".*",)))


def test_a_decay_rule_for_a_frozen_part_is_legal():
  names = ["img/head/kernel", "llm/final_norm/scale"]
  section = optim(freeze=("img/.*",), wd=0.1)
  trainable, frozen = optimizers.split(names, section)
  assert (trainable, frozen) == (("llm/final_norm/scale",), ("img/head/kernel",))
  shapes = {name: np.zeros(2, np.float32) for name in trainable}
  optimizers.make(section, shapes, 10, names=names, batch_size=1)
