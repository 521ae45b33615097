"""The model's functions on a two-layer model with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.models import attention_mask
from paligemma_jax.models import gemma
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants

_SMALL = {"img": {"depth": 2, "width": 64, "mlp_dim": 96}, "llm": {"depth": 2, "mlp_dim": 96}}
_B, _T = 3, 6
_MASK_AR = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]], np.int32)


def _config(**changes):
  settings = dict(res=28, vocab_size=90, overrides=_SMALL, dtype="float32", remat="none")
  return variants.get("tiny", **{**settings, **changes})


@functools.cache
def _params():
  return paligemma.init_params(_config(), jax.random.key(0))


def _batch():
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (_B, 28, 28, 3), np.uint8)
  return image, rng.integers(3, 90, (_B, _T), np.int32)


_image_tokens = jax.jit(paligemma.image_tokens, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _features(model_config, params, image, text, mask_ar, mask_input=None, key=None):
  return paligemma.text_features(
    model_config, params, image, text, mask_ar, mask_input_BT=mask_input, dropout_key=key
  )


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_grads(model_config, params):
  image, text = _batch()

  def loss(params):
    x_BTD = paligemma.text_features(model_config, params, image, text, _MASK_AR)
    logits_BTV = paligemma.logits(model_config, params, x_BTD[:, :-1])
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), text[:, 1:, None], -1))

  return jax.value_and_grad(loss)(params)


def test_init_gives_float32_of_the_stated_shapes_and_sane_sizes():
  shapes = paligemma.param_shapes(_config())
  assert list(shapes) == sorted(shapes)
  assert {k: (v.shape, v.dtype) for k, v in _params().items()} == {
    k: (v.shape, np.float32) for k, v in shapes.items()
  }
  image, text = _batch()
  tokens = _image_tokens(_config(), _params(), image)
  assert 0.3 < float(jnp.std(tokens)) < 3  # About as large as text embeddings, which have 1.
  x_BTD = _features(_config(), _params(), image, text, _MASK_AR)
  logits = paligemma.logits(_config(), _params(), x_BTD)
  assert 0.3 < float(jnp.std(logits)) < 3


def test_several_images_are_their_tokens_one_after_the_other():
  image, text = _batch()
  frames = np.stack([image, image[::-1], image[:, ::-1]], axis=1)
  tokens = _image_tokens(_config(), _params(), frames)
  singles = [_image_tokens(_config(), _params(), frames[:, i]) for i in range(3)]
  np.testing.assert_allclose(tokens, np.concatenate(singles, axis=1), rtol=0, atol=1e-5)
  assert np.abs(singles[0] - singles[1]).max() > 0.1
  got = _features(_config(), _params(), frames, text, _MASK_AR)
  encoded = [paligemma.encode_images(_config(), _params(), frames[:, i]) for i in range(3)]
  want = jax.jit(functools.partial(paligemma.text_features, _config()))(
    _params(), None, text, _MASK_AR, encoded=jnp.concatenate(encoded, axis=1)
  )
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_uint8_images_are_scaled_to_minus_one_to_one():
  image, _ = _batch()
  scaled = (-1 + image.astype(np.float32) / 255 * 2).astype(np.float32)
  ours = _image_tokens(_config(), _params(), image)
  # Scaling inside the program is fused with what follows and rounds differently.
  np.testing.assert_allclose(ours, _image_tokens(_config(), _params(), scaled), rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 42, 42, 3), (28, 28, 3), (3, 28, 28, 4)])
def test_an_image_of_another_shape_is_refused(shape):
  with pytest.raises(errors.ConfigError, match=r"takes images of shape \[B, 28, 28, 3\]"):
    paligemma.image_tokens(_config(), _params(), np.zeros(shape, np.uint8))


def test_padding_does_not_reach_real_tokens_by_either_convention():
  """mask_ar 1 on padding (training) and mask_input 0 (decoding) agree on the tokens before."""
  image, text = _batch()
  padding = np.arange(_T) >= 4
  mask_ar = np.where(padding, 1, _MASK_AR)
  other = np.where(padding, 7, text)
  want = _features(_config(), _params(), image, text, mask_ar)[:, :4]
  got = _features(_config(), _params(), image, other, mask_ar)[:, :4]
  np.testing.assert_array_equal(got, want)
  mask_input = np.broadcast_to(~padding, text.shape).astype(np.int32)
  got = _features(_config(), _params(), image, other, mask_ar, mask_input)[:, :4]
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_padding_on_the_left_or_inside_is_skipped_too():
  image, text = _batch()
  want = _features(_config(), _params(), image, text, _MASK_AR)
  at = np.array([0, 2, 3, 5, 6, 7])
  wide_text, wide_ar, wide_input = (np.zeros((_B, 8), np.int32) for _ in range(3))
  wide_text[:, at], wide_ar[:, at], wide_input[:, at] = text, _MASK_AR, 1
  got = _features(_config(), _params(), image, wide_text, wide_ar, wide_input)[:, at]
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_suffix_tokens_do_not_see_what_comes_after_them():
  image, text = _batch()
  changed = text.copy()
  changed[:, -1] = 5
  before = _features(_config(), _params(), image, text, _MASK_AR)
  after = _features(_config(), _params(), image, changed, _MASK_AR)
  np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
  assert np.abs(before[:, -1] - after[:, -1]).max() > 1e-2


def test_the_prefix_sees_all_of_itself():
  image, text = _batch()
  changed = text.copy()
  changed[1, 3] = 5  # The last token of row 1's prefix.
  before = _features(_config(), _params(), image, text, _MASK_AR)
  after = _features(_config(), _params(), image, changed, _MASK_AR)
  assert np.abs(before[1, 0] - after[1, 0]).max() > 1e-4


@pytest.mark.parametrize("policy", ["dots", "full"])
def test_recomputing_gives_the_same_loss_and_gradients(policy):
  loss, grads = _loss_and_grads(_config(), _params())
  loss_r, grads_r = _loss_and_grads(_config(remat=policy), _params())
  np.testing.assert_allclose(loss_r, loss, rtol=1e-6, atol=0)
  for name, grad in grads.items():
    np.testing.assert_allclose(grads_r[name], grad, rtol=0, atol=1e-6 + 1e-5 * np.abs(grad).max())


def test_gradients_reach_every_parameter_and_match_a_finite_difference():
  _, grads = _loss_and_grads(_config(), _params())
  for name, grad in grads.items():
    assert np.isfinite(grad).all(), name
    if not name.endswith("key/bias"):  # A constant added to all keys changes no softmax.
      assert np.abs(grad).max() > 1e-6, name
  rng = np.random.default_rng(0)
  step = {k: rng.normal(size=v.shape).astype(np.float32) * 1e-3 for k, v in _params().items()}

  def at(sign):
    moved = {k: v + sign * step[k] for k, v in _params().items()}
    return float(_loss_and_grads(_config(), moved)[0])

  slope = sum(float(jnp.vdot(grads[k], step[k])) for k in grads)
  # Float32 losses near 5 carry 5e-7 of noise each; the step's curvature adds a little.
  np.testing.assert_allclose((at(1) - at(-1)) / 2, slope, rtol=0.02, atol=1e-6)


def test_bfloat16_is_close_and_features_have_the_compute_dtype():
  image, text = _batch()
  want = _features(_config(), _params(), image, text, _MASK_AR)
  model_config = _config(dtype="bfloat16")
  got = _features(model_config, _params(), image, text, _MASK_AR)
  assert got.dtype == jnp.bfloat16
  # 8 bits of mantissa through 4 layers; features have unit variance.
  assert np.abs(got.astype(np.float32) - want).mean() < 0.03
  assert paligemma.logits(model_config, _params(), got).dtype == jnp.float32


def test_stored_bfloat16_parameters_compute_in_float32_on_request():
  image, text = _batch()
  halves = {k: v.astype(jnp.bfloat16) for k, v in _params().items()}
  rounded = {k: v.astype(jnp.float32) for k, v in halves.items()}
  got = _features(_config(), halves, image, text, _MASK_AR)
  assert got.dtype == jnp.float32
  want = _features(_config(), rounded, image, text, _MASK_AR)
  # Only the embedding is scaled by a sqrt(width) rounded as its table is.
  np.testing.assert_allclose(got, want, rtol=0, atol=0.02)


def test_dropout_needs_a_key_and_differs_by_it():
  image, text = _batch()
  model_config = _config(dropout=0.5)
  off = _features(_config(), _params(), image, text, _MASK_AR)
  np.testing.assert_array_equal(_features(model_config, _params(), image, text, _MASK_AR), off)

  def run(seed):
    return _features(model_config, _params(), image, text, _MASK_AR, None, jax.random.key(seed))

  np.testing.assert_array_equal(run(1), run(1))
  assert np.abs(run(1) - run(2)).max() > 0.1
  assert np.abs(run(1) - off).max() > 0.1


def _one_branch(silent, dropout):
  """What one layer of Gemma 2 adds to its input when the other branch is silent, [B, S, D]."""
  sizes = variants.get("tiny", res=28, overrides={**_SMALL, "llm": {"post_norms": True}}).llm
  layer = gemma.Layer(sizes, jnp.float32, dropout, None, "plain")
  mask = attention_mask.prefix_lm(jnp.zeros((2, 7), jnp.int32))
  rope = gemma.rotary_angles(mask.q_pos, sizes.head_dim)
  x_BSD = jax.random.normal(jax.random.key(0), (2, 7, sizes.width))
  keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
  variables = layer.init(keys, x_BSD, None, None, mask, rope, None)
  params = jax.tree.map(lambda x: x, variables["params"])
  module, name = silent
  params[module][name] = jax.tree.map(jnp.zeros_like, params[module][name])
  rngs = {"dropout": jax.random.key(3)}
  out, _ = layer.apply({"params": params}, x_BSD, None, None, mask, rope, None, rngs=rngs)
  return np.asarray(out - x_BSD)


# The reference's Block (models/ppp/gemma.py) drops after post_attention_norm, but before
# post_ffw_norm. A norm with scale 0 gives tokens of root mean square 1: so does what the MLP adds,
# whatever was dropped, while what attention adds is the undropped branch, doubled or 0.
def test_dropout_of_gemma_2_stands_where_the_reference_has_it():
  of_mlp = _one_branch(("attn", "attn_vec_einsum"), dropout=0.5)
  np.testing.assert_allclose((of_mlp**2).mean(axis=-1), 1.0, rtol=1e-3, atol=0)
  assert 0.4 < (of_mlp == 0).mean() < 0.6
  silent = ("mlp", "linear")
  of_attention, undropped = _one_branch(silent, dropout=0.5), _one_branch(silent, dropout=0.0)
  kept = of_attention != 0
  assert 0.4 < kept.mean() < 0.6
  np.testing.assert_allclose(of_attention[kept], 2 * undropped[kept], rtol=1e-4, atol=1e-5)


def test_an_unknown_token_id_poisons_its_row_instead_of_passing_for_another():
  image, text = _batch()
  text = text.copy()
  text[0, 0] = 90
  x_BTD = np.asarray(_features(_config(), _params(), image, text, _MASK_AR))
  assert np.isnan(x_BTD[0]).all() and np.isfinite(x_BTD[1:]).all()
