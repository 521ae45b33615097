"""The loss and its gradients against the reference's numbers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import core  # Its public name is gone in JAX 0.12.

from paligemma_jax.models import paligemma
from paligemma_jax.training import loss
from tests import golden_files
from tests.training import golden_model


@functools.cache
def _features(name):
  model_config, batch = golden_model.config(name), golden_model.batch(f"{name}_inputs")
  return jax.jit(functools.partial(paligemma.text_features, model_config))(
    golden_model.params(name), batch["image"], batch["text"][:, :-1], batch["mask_ar"][:, :-1]
  )


def _token_losses(name, num=16, label_smoothing=0.0):
  return _losses_of(name, golden_model.params(name), _features(name), num, label_smoothing)


def _losses_of(name, params, x, num=16, label_smoothing=0.0):
  model_config, batch = golden_model.config(name), golden_model.batch(f"{name}_inputs")
  return loss.token_losses(
    lambda x: paligemma.logits(model_config, params, x),
    x,
    jnp.asarray(batch["text"][:, 1:]),
    jnp.asarray(batch["mask_loss"][:, 1:]),
    num_supervised=num,
    chunk=num,
    token_loss=loss.cross_entropy(label_smoothing),
  )


def _loss(losses):
  rows = losses.nll_BM.shape[0]
  return loss.batch_loss(loss.row_sums(losses), jnp.ones(rows, bool), jnp.float32(rows))


def _golden(name):
  return json.loads(golden_files.path(f"bv/{name}_results.json").read_text())


@pytest.mark.parametrize("name", ["tiny", "tiny2"])
def test_token_nll_and_loss_are_the_references(name):
  golden, losses = _golden(name), _token_losses(name)
  nll = np.zeros((6, 16), np.float32)
  used = np.where(losses.weight_BM != 0, losses.nll_BM, 0)
  np.put_along_axis(nll, np.asarray(losses.index_BM), used, axis=1)
  np.testing.assert_allclose(nll, golden["token_nll"], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(_loss(losses), golden["loss"], rtol=2e-6)


@pytest.mark.parametrize("name", ["tiny", "tiny2"])
def test_label_smoothing_is_the_references(name):
  losses = _token_losses(name, label_smoothing=0.1)
  np.testing.assert_allclose(_loss(losses), _golden(name)["loss_label_smoothing_0p1"], rtol=2e-6)


def test_only_supervised_positions_are_needed():
  whole, kept = _token_losses("tiny", num=16), _token_losses("tiny", num=11)
  np.testing.assert_allclose(_loss(kept), _loss(whole), rtol=1e-6)


def _toy_loss(table, x, targets, mask, chunk):
  losses = loss.token_losses(
    lambda x: x @ table.T,
    x,
    targets,
    mask,
    num_supervised=16,
    chunk=chunk,
    token_loss=loss.cross_entropy(label_smoothing=0.1),
  )
  return _loss(losses)


def _toy_inputs():
  rng = np.random.default_rng(0)
  table = jnp.asarray(rng.normal(size=(50, 8)), jnp.float32)
  x = jnp.asarray(rng.normal(size=(6, 20, 8)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, 50, (6, 20)))
  mask = jnp.asarray(rng.random((6, 20)) < 0.5, jnp.float32)
  return table, x, targets, mask


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_change_neither_loss_nor_gradients(chunk):
  grad = jax.value_and_grad(_toy_loss, argnums=(0, 1))
  whole, chunked = (grad(*_toy_inputs(), c) for c in (16, chunk))
  for got, want in zip(jax.tree.leaves(chunked), jax.tree.leaves(whole), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_logits_of_all_positions_never_exist(chunk):
  grad = jax.grad(lambda *a: _toy_loss(*a, chunk), argnums=(0, 1))
  sizes = [v.aval.size for v in _arrays_with_dim(jax.make_jaxpr(grad)(*_toy_inputs()).jaxpr, 50)]
  table = 50 * 8
  assert sizes and max(size for size in sizes if size != table) <= chunk * 6 * 50


def _arrays_with_dim(jaxpr, dim):
  for eqn in jaxpr.eqns:
    yield from (v for v in eqn.outvars if dim in v.aval.shape)
    for sub in core.jaxprs_in_params(eqn.params):
      yield from _arrays_with_dim(sub, dim)


@pytest.mark.parametrize("name", ["tiny", "tiny2"])
def test_every_leafs_gradient_is_the_references(name):
  model_config, batch = golden_model.config(name), golden_model.batch(f"{name}_inputs")

  def loss_of(p):
    text, mask_ar = batch["text"][:, :-1], batch["mask_ar"][:, :-1]
    x = paligemma.text_features(model_config, p, batch["image"], text, mask_ar)
    return _loss(_losses_of(name, p, x))

  lowered = jax.jit(jax.grad(loss_of)).lower(golden_model.params(name))
  compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
  gradients = compiled(golden_model.params(name))
  with np.load(golden_files.path(f"bv/{name}_grads.npz")) as f:
    golden = {key.removeprefix("params/"): f[key] for key in f.files}
  assert set(golden) == set(gradients)
  for leaf, want in golden.items():
    off = np.linalg.norm(gradients[leaf] - want)
    # Softmax is blind to a shift of all keys: the key bias has gradient 0, and rounding noise here.
    floor = 1e-5 if leaf.endswith("key/bias") else 0.0
    assert off <= max(1e-3 * np.linalg.norm(want), floor), leaf


def test_a_row_without_supervised_tokens_counts_as_zero_and_is_divided_by():
  golden, sums = _golden("tiny"), loss.row_sums(_token_losses("tiny"))
  assert sums.num_tokens[3] == 0 and sums.loss_sum[3] == 0
  np.testing.assert_allclose(
    loss.batch_loss(sums, jnp.ones(6, bool), jnp.float32(6)),
    np.mean(golden["loss_per_example"]),
    rtol=2e-6,
  )


def test_a_rejected_row_counts_neither_above_nor_below_the_line():
  golden, sums = _golden("tiny"), loss.row_sums(_token_losses("tiny"))
  mask = jnp.array([True, True, False, True, True, False])
  want = np.array(golden["loss_per_example"])[np.asarray(mask)].mean()
  np.testing.assert_allclose(loss.batch_loss(sums, mask, jnp.float32(4)), want, rtol=2e-6)


def test_a_nan_outside_the_supervised_positions_does_not_reach_the_sums():
  losses = _token_losses("tiny")
  poisoned = losses._replace(nll_BM=jnp.where(losses.weight_BM == 0, jnp.nan, losses.nll_BM))
  assert loss.row_sums(poisoned).loss_sum.tolist() == loss.row_sums(losses).loss_sum.tolist()


def test_correct_tokens_are_counted():
  batch, losses = golden_model.batch("tiny_inputs"), _token_losses("tiny")
  with np.load(golden_files.path("bv/tiny_forward.npz")) as f:
    hits = (f["text_tokens"] == batch["text"][:, 1:]) * batch["mask_loss"][:, 1:]
  np.testing.assert_array_equal(loss.row_sums(losses).num_correct, hits.sum(1))


@pytest.mark.parametrize(
  "most, text_len, bucket", [(0, 64, 8), (8, 64, 8), (9, 64, 16), (33, 64, 64), (33, 40, 40)]
)
def test_num_supervised_is_the_next_bucket(most, text_len, bucket):
  mask = np.zeros((2, text_len + 1), np.float32)
  mask[1, 1 : most + 1] = 1
  assert loss.num_supervised(mask) == bucket
