"""The training step: accumulation, the finite gate, rejected rows, dropout, the evaluation step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.training import loss
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states
from paligemma_jax.training import step as steps
from tests.training import golden_model
from tests.training import toy_state
from tests.training.optim_section import optim

_QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def _compiled(grad_accum_steps=1, dropout=0.0, freeze="img/.*"):
  """(compiled step, function making a fresh state); 16 supervised positions."""
  start = golden_model.params("tiny")
  section = optim(lr=1e-3, wd=0.01, warmup="", grad_clip_norm=0.5, ema=0.9, freeze=(freeze,))
  made, trainable = golden_model.optimizer_for(section, start, total_steps=10)
  model_config = golden_model.config("tiny", dropout=dropout)

  def fresh():
    return states.make(start, trainable, made, toy_state.mesh(), dtype=np.float32)

  step = steps.make_train_step(
    model_config,
    made,
    fresh(),
    toy_state.mesh(),
    token_loss=loss.cross_entropy(label_smoothing=0.0),
    grad_accum_steps=grad_accum_steps,
    seed=0,
  )
  return step.lower(fresh(), _put(_batch()), 16).compile(compiler_options=_QUICK), fresh


def _batch():
  return golden_model.batch("optim_batch0")


def _put(batch):
  return sharding.put(batch, toy_state.mesh())


def _one(step, state, batch=None):
  state, sums = step(state, _put(batch or _batch()))
  return state, {key: float(value) for key, value in sums.items()}


def test_micro_batches_give_the_step_of_the_whole_batch():
  batch = _batch()
  batch["_mask"] = np.array([True, True, True, True, False, True])
  (whole, fresh), (parts, _) = _compiled(), _compiled(grad_accum_steps=3)
  (state, sums), (state3, sums3) = _one(whole, fresh(), batch), _one(parts, fresh(), batch)
  for key, value in sums.items():
    np.testing.assert_allclose(sums3[key], value, rtol=2e-6, err_msg=key)
  # Adam's second moment is the gradient squared: it shows the gradient itself, not only its sign.
  nu, nu3 = state.opt_state["rule"].nu, state3.opt_state["rule"].nu
  for name, leaf in nu.items():
    np.testing.assert_allclose(nu3[name], leaf, rtol=1e-3, atol=1e-12, err_msg=name)


def test_tokens_and_rows_are_counted_without_rejected_rows():
  batch = _batch()
  batch["_mask"] = np.array([True, False, True, True, True, True])
  _, sums = _one(_compiled()[0], _compiled()[1](), batch)
  assert sums["num_rows"] == 5
  assert sums["num_tokens"] == batch["mask_loss"][batch["_mask"], 1:].sum()


def test_a_rejected_rows_content_does_not_matter():
  step, fresh = _compiled()
  batch = _batch()
  batch["_mask"] = np.array([True, False, True, True, True, True])
  state, _ = _one(step, fresh(), batch)
  batch["image"][1], batch["text"][1] = 0.0, 7
  again, _ = _one(step, fresh(), batch)
  toy_state.assert_equal(again, state)


def _poison(kind, state, batch):
  if kind == "nan in a row":
    batch["mask_loss"][0, 5] = np.nan
  elif kind == "infinite gradient":
    batch["mask_loss"][0, 5] = 3e38
  else:
    mu = state.opt_state["rule"].mu
    mu["llm/final_norm/scale"] = mu["llm/final_norm/scale"].at[0].set(np.nan)


@pytest.mark.parametrize("kind", ["nan in a row", "infinite gradient", "nan in the optimizer"])
def test_a_non_finite_step_leaves_the_state_bitwise_unchanged(kind):
  step, fresh = _compiled()
  state, _ = _one(step, fresh())
  batch = _batch()
  _poison(kind, state, batch)
  before = jax.tree.map(np.array, state)
  after, sums = _one(step, state, batch)
  assert sums["nonfinite"] == 1.0 and after.step == before.step + 1
  toy_state.assert_equal(after.trainable, before.trainable)
  toy_state.assert_equal(after.opt_state, before.opt_state)
  toy_state.assert_equal(after.ema, before.ema)


def test_the_average_follows_what_trains_and_is_what_is_evaluated():
  step, fresh = _compiled()
  start = jax.tree.map(np.array, fresh().trainable)
  state, _ = _one(step, fresh())
  name = "llm/layers/mlp/linear"
  # At step 0 the decay is 1 / 10.
  want = start[name] + 0.9 * (np.asarray(state.trainable[name]) - start[name])
  np.testing.assert_allclose(state.ema[name], want, rtol=0, atol=1e-7)
  assert set(state.ema) == set(state.trainable)
  assert state.result[name] is state.ema[name] and state.params[name] is state.trainable[name]
  assert state.result["img/head/bias"] is state.frozen["img/head/bias"]


def test_training_goes_on_after_a_skipped_step():
  step, fresh = _compiled()
  bad = _batch()
  bad["mask_loss"][0, 5] = np.nan
  state, _ = _one(step, fresh(), bad)
  state, sums = _one(step, state)
  assert sums["nonfinite"] == 0.0 and state.step == 2
  assert np.isfinite(sums["loss"]) and sums["update_norm"] > 0
  # The schedule goes by the run's step and not by the number of updates.
  assert sums["lr"] == pytest.approx(1e-3 * 0.5 * (1 + np.cos(np.pi * 0.1)), rel=1e-6)


def test_dropout_is_a_function_of_seed_and_step():
  step, fresh = _compiled(dropout=0.5)
  plain = _one(_compiled()[0], fresh())[1]["loss"]
  state, first = _one(step, fresh())
  _, again = _one(step, fresh())
  assert first == again and first["loss"] != plain
  start = fresh()
  frozen_params = dataclasses.replace(start, step=state.step)
  _, second = _one(step, frozen_params)
  assert second["loss"] != first["loss"]


def test_the_evaluation_step_gives_each_rows_sums():
  golden = golden_model.batch("tiny_inputs")
  step = steps.make_eval_step(golden_model.config("tiny"), toy_state.mesh())
  params = {name: jax.numpy.asarray(p) for name, p in golden_model.params("tiny").items()}
  lowered = step.lower(params, _put(golden), 16)
  sums = lowered.compile(compiler_options=_QUICK)(params, _put(golden))
  assert sums.num_tokens.tolist() == golden["mask_loss"][:, 1:].sum(1).tolist()
  mean = sums.loss_sum / np.maximum(sums.num_tokens, 1)
  # Rows 0 and 3 of the reference's loss_per_example; row 3 has nothing to predict.
  np.testing.assert_allclose(mean[jax.numpy.array([0, 3])], [14.556877, 0.0], rtol=1e-5)


def test_batches_that_do_not_divide_are_errors():
  with pytest.raises(errors.ConfigError, match=r"train.batch_size=6 .* 4 micro-batches.* 8"):
    sharding.check_batch(6, toy_state.mesh(), grad_accum_steps=4, what="train.batch_size")
  sharding.check_batch(8, toy_state.mesh(), grad_accum_steps=4, what="train.batch_size")


def test_uint8_images_are_the_references_floats():
  with np.load(golden_model.golden_files.path("bv/train_batches.npz")) as f:
    image = f["image_u8_0"]
  model_config, params = golden_model.config("e2e"), golden_model.params("e2e")
  tokens = jax.jit(functools.partial(steps.paligemma.image_tokens, model_config))
  floats = (-1 + (image.astype(np.float32) / np.float32(255)) * 2).astype(np.float32)
  np.testing.assert_allclose(tokens(params, image), tokens(params, floats), rtol=0, atol=1e-6)
