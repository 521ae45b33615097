"""Attention: what the structure hides, and that the implementations agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.models import attention
from paligemma_jax.models import attention_mask
from paligemma_jax.models import gemma
from paligemma_jax.models import kernels
from paligemma_jax.planning import program

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
  mask = np.asarray(attention_mask.prefix_lm(_MASK_AR).dense())
  blocks = np.cumsum(_MASK_AR, axis=1)
  for b, q, k in np.ndindex(mask.shape):
    assert mask[b, q, k] == (blocks[b, k] <= blocks[b, q])


def test_hidden_positions_are_seen_by_nobody_and_not_counted():
  valid = np.array([[1, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]], bool)
  mask = attention_mask.prefix_lm(_MASK_AR, valid)
  assert not np.asarray(mask.dense())[0][:, ~valid[0]].any()
  np.testing.assert_array_equal(np.asarray(mask.q_pos)[0][valid[0]], [0, 1, 2, 3])
  np.testing.assert_array_equal(np.asarray(mask.q_pos)[1], np.arange(7))


def test_a_window_hides_distant_positions_of_earlier_blocks_only():
  mask = attention_mask.prefix_lm(_MASK_AR[:1])
  dense = np.asarray(mask.dense(jnp.int32(2)))[0]
  assert dense[0, 2] and dense[2, 0]  # One block: the window does not bind.
  np.testing.assert_array_equal(dense[4], [0, 0, 0, 1, 1, 0, 0])  # Itself and one behind.
  np.testing.assert_array_equal(dense[6], [0, 0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_grouped_heads_equal_a_slow_loop(num_kv_heads, softcap):
  q, k, v = _qkv(7, 7, num_kv_heads=num_kv_heads)
  mask = attention_mask.prefix_lm(_MASK_AR)
  got = attention.attend(q, k, v, mask, softcap=softcap)
  want = _slow(q, k, v, np.asarray(mask.dense()), softcap)
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def _weighed(q, k, v, mask, implementation, chunk, **rest):
  out = attention.attend(q, k, v, mask, implementation=implementation, chunk=chunk, **rest)
  return jnp.sum(jnp.sin(out) * jnp.arange(out.size).reshape(out.shape)), out


@functools.partial(jax.jit, static_argnames=("implementation", "chunk", "softcap"))
def _gradients(q, k, v, mask, implementation, chunk=0, **rest):
  """Gradients by q, k and v; the output."""
  return jax.grad(_weighed, (0, 1, 2), has_aux=True)(q, k, v, mask, implementation, chunk, **rest)


def _assert_agree(got, want):
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-4)  # Gradients are up to 200.
  np.testing.assert_allclose(got[1], want[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["chunked", "rows"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("structured", [True, False])
def test_pieces_give_the_values_and_gradients_of_all_at_once(implementation, window, structured):
  q, k, v = _qkv(7, 7)
  mask = attention_mask.prefix_lm(_MASK_AR) if structured else None
  window = None if window is None else jnp.int32(window)
  rest = dict(softcap=5.0, window=window)
  want = _gradients(q, k, v, mask, "plain", **rest)
  for chunk in (2, 7, 0):  # 7 queries in chunks of 2: the last one is padded.
    _assert_agree(_gradients(q, k, v, mask, implementation, chunk, **rest), want)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_rows_with_fewer_queries_than_keys_and_one_row_of_structure(num_kv_heads):
  q, k, v = _qkv(7, 7, num_kv_heads=num_kv_heads)
  mask = attention_mask.prefix_lm(_MASK_AR[:1])
  only = np.tril(np.ones((1, 7, 7), bool)) | (np.arange(7) < 2)
  mask = mask._replace(extra_mask=jnp.asarray(only)).of_last(3)
  want = _gradients(q[:, -3:], k, v, mask, "plain")
  for chunk in (2, 3):
    _assert_agree(_gradients(q[:, -3:], k, v, mask, "rows", chunk), want)


def test_rows_of_queries_that_see_nothing_have_the_plain_ways_gradients():
  q, k, v = _qkv(7, 7)
  valid = np.ones((2, 7), bool)
  valid[0, :2] = False  # The first block is these two.
  mask = attention_mask.prefix_lm(np.array([[0, 0, 1, 0, 0, 1, 1]] * 2), valid)
  assert not np.asarray(mask.dense())[0, :2].any()
  _assert_agree(_gradients(q, k, v, mask, "rows"), _gradients(q, k, v, mask, "plain"))


def test_rows_in_bfloat16_are_as_close_to_float32_as_the_plain_way():
  q, k, v = _qkv(7, 7)
  mask = attention_mask.prefix_lm(_MASK_AR)
  want = _gradients(q, k, v, mask, "plain")
  halves = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]

  def error(implementation):
    got = _gradients(*halves, mask, implementation)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(got))
    return max(
      float(abs(x.astype(jnp.float32) - y).max() / abs(y).max())
      for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    )

  assert error("rows") <= 1.5 * error("plain")


def test_rows_work_out_no_softmax_twice_where_products_are_kept():
  q, k, v = _qkv(7, 7, num_kv_heads=1)
  attend = functools.partial(attention.attend, mask=None, implementation="rows")
  layer = jax.checkpoint(attend, policy=gemma.POLICIES["dots"])
  step = jax.make_jaxpr(jax.grad(lambda *qkv: jnp.sum(layer(*qkv)), (0, 1, 2)))(q, k, v)
  one = 2 * 2 * 4 * 7 * 7 * 8  # Rows, heads, queries, keys, head dim.
  assert program.matmul_flops(step) == (2 + 5) * one


@pytest.mark.parametrize("alone", [True, False])
def test_one_cpu_goes_by_rows_from_some_size_on(alone, monkeypatch):
  monkeypatch.setattr(kernels, "devices", lambda: ("cpu", 1 if alone else 2))

  def traced(length):
    qkv = [jnp.zeros((2, length, 4, 8))] * 3
    return str(jax.make_jaxpr(lambda *qkv: attention.attend(*qkv, None))(*qkv))

  assert "scan" not in traced(128)
  assert ("scan" in traced(256)) == alone


@pytest.mark.parametrize("alone", [True, False])
def test_long_sequences_never_hold_all_logits(alone, monkeypatch):
  monkeypatch.setattr(kernels, "devices", lambda: ("cpu", 1 if alone else 2))
  q, k, v = (jax.ShapeDtypeStruct((1, 4096, 4, 8), jnp.float32) for _ in range(3))
  all_logits = 4 * 4096 * 4096 * 4

  def temp_bytes(implementation):
    fn = jax.jit(lambda q, k, v: attention.attend(q, k, v, None, implementation=implementation))
    return fn.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

  assert temp_bytes("plain") >= all_logits
  assert temp_bytes("auto") <= all_logits / 3


def test_a_query_that_sees_nothing_gives_finite_numbers():
  q, k, v = _qkv(3, 3)
  mask = attention_mask.prefix_lm(np.zeros((2, 3), np.int32), np.zeros((2, 3), bool))
  assert np.isfinite(attention.attend(q, k, v, mask)).all()
