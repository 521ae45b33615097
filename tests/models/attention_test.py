"""Attention: what the structure hides, and that the implementations agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.models import attention

_MASK_AR = np.array([[0, 0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 0, 1]], np.int32)


def _qkv(q_len, k_len, num_heads=4, num_kv_heads=2, batch=2):
  rng = np.random.default_rng(0)
  shapes = [(q_len, num_heads), (k_len, num_kv_heads), (k_len, num_kv_heads)]
  return [rng.normal(size=(batch, *s, 8)).astype(np.float32) for s in shapes]


def _slow(q, k, v, mask, softcap=0.0):
  """One query at a time, in float64."""
  out = np.zeros(q.shape)
  group = q.shape[2] // k.shape[2]
  for b, i, n in np.ndindex(q.shape[:3]):
    logits = k[b, :, n // group].astype(np.float64) @ q[b, i, n]
    if softcap:
      logits = np.tanh(logits / softcap) * softcap
    weights = np.exp(logits - logits.max()) * mask[b, i]
    out[b, i, n] = weights / weights.sum() @ v[b, :, n // group]
  return out


def test_blocks_are_bidirectional_inside_and_causal_between():
  mask = np.asarray(attention.prefix_lm(_MASK_AR).mask())
  blocks = np.cumsum(_MASK_AR, axis=1)
  for b, q, k in np.ndindex(mask.shape):
    assert mask[b, q, k] == (blocks[b, k] <= blocks[b, q])


def test_hidden_positions_are_seen_by_nobody_and_not_counted():
  valid = np.array([[1, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]], bool)
  see = attention.prefix_lm(_MASK_AR, valid)
  assert not np.asarray(see.mask())[0][:, ~valid[0]].any()
  np.testing.assert_array_equal(np.asarray(see.q_pos)[0][valid[0]], [0, 1, 2, 3])
  np.testing.assert_array_equal(np.asarray(see.q_pos)[1], np.arange(7))


def test_a_window_hides_distant_positions_of_earlier_blocks_only():
  see = attention.prefix_lm(_MASK_AR[:1])
  mask = np.asarray(see.mask(jnp.int32(2)))[0]
  assert mask[0, 2] and mask[2, 0]  # One block: the window does not bind.
  np.testing.assert_array_equal(mask[4], [0, 0, 0, 1, 1, 0, 0])  # Itself and one behind.
  np.testing.assert_array_equal(mask[6], [0, 0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_grouped_heads_equal_a_slow_loop(num_kv_heads, softcap):
  q, k, v = _qkv(7, 7, num_kv_heads=num_kv_heads)
  see = attention.prefix_lm(_MASK_AR)
  got = attention.attend(q, k, v, see, softcap=softcap)
  want = _slow(q, k, v, np.asarray(see.mask()), softcap)
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("structured", [True, False])
def test_chunks_give_the_values_and_gradients_of_all_at_once(window, structured):
  q, k, v = _qkv(7, 7)
  see = attention.prefix_lm(_MASK_AR) if structured else None
  window = None if window is None else jnp.int32(window)

  def scalar(q, k, v, chunk):
    how = "chunked" if chunk else "plain"
    out = attention.attend(q, k, v, see, softcap=5.0, window=window, how=how, chunk=chunk)
    return jnp.sum(jnp.sin(out) * jnp.arange(out.size).reshape(out.shape)), out

  grad = jax.jit(jax.grad(scalar, (0, 1, 2), has_aux=True), static_argnums=3)
  grads, out = grad(q, k, v, 0)
  for chunk in (2, 7):  # 7 queries in chunks of 2: the last one is padded.
    grads_c, out_c = grad(q, k, v, chunk)
    np.testing.assert_allclose(out_c, out, rtol=0, atol=1e-6)
    for ours, want in zip(grads_c, grads, strict=True):
      np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-4)  # Gradients are up to 200.


def test_long_sequences_never_hold_all_logits():
  q, k, v = (jax.ShapeDtypeStruct((1, 4096, 4, 8), jnp.float32) for _ in range(3))
  all_logits = 4 * 4096 * 4096 * 4

  def temp_bytes(how):
    fn = jax.jit(lambda q, k, v: attention.attend(q, k, v, None, how=how))
    return fn.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

  assert temp_bytes("plain") >= all_logits
  assert temp_bytes("auto") <= all_logits / 3


def test_a_query_that_sees_nothing_gives_finite_numbers():
  q, k, v = _qkv(3, 3)
  see = attention.prefix_lm(np.zeros((2, 3), np.int32), np.zeros((2, 3), bool))
  assert np.isfinite(attention.attend(q, k, v, see)).all()
