"""Generation on a two-layer model with random weights: it is the model's own forward, repeated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.decoding import generate
from paligemma_jax.models import paligemma
from tests.decoding import small_model

_B, _T, _N = small_model.B, small_model.T, small_model.N
_EOS = 1
_config, _params, _batch, _forward = (
  small_model.config,
  small_model.params,
  small_model.batch,
  small_model.forward,
)


@functools.cache
def _made(model_config, eos_id=_EOS, max_new_tokens=_N, **options):
  how = generate.Options(max_new_tokens, **options)
  return generate.make_generate(model_config, how, eos_id=eos_id)


def _run(batch, model_config=None, key=None, **options):
  model_config = model_config or _config()
  out = _made(model_config, **options)(_params(model_config), batch, key)
  return {k: np.asarray(v) for k, v in out.items()}


def _logprob(logits, tokens):
  return np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], -1)[..., 0]


@pytest.mark.parametrize("generation", small_model.GENERATIONS)
def test_every_step_equals_a_forward_pass_over_the_whole_row(generation):
  model_config, batch = _config(generation), _batch()
  got = _run(batch, model_config, eos_id=-1)
  logits = _forward(model_config, batch, got["tokens"])
  np.testing.assert_array_equal(logits.argmax(-1), got["tokens"])
  want = _logprob(logits, got["tokens"])
  np.testing.assert_allclose(got["token_logprob"], want, rtol=0, atol=1e-4)
  assert len({tuple(row) for row in got["tokens"].tolist()}) == _B
  np.testing.assert_allclose(got["logprob"], got["token_logprob"].sum(1), rtol=1e-6, atol=0)


def test_a_row_that_ended_emits_padding_while_others_go_on():
  free = _run(_batch(), eos_id=-1)
  eos = int(free["tokens"][1, 1])
  ends = [row.tolist().index(eos) + 1 if eos in row else _N for row in free["tokens"]]
  assert min(ends) < max(ends)
  got = _run(_batch(), eos_id=eos)
  assert got["lengths"].tolist() == ends
  for row, end in enumerate(ends):
    np.testing.assert_array_equal(got["tokens"][row, :end], free["tokens"][row, :end])
    assert not got["tokens"][row, end:].any()
    assert not got["token_logprob"][row, end:].any()
    assert got["token_logprob"][row, :end].all()


def test_rows_masked_out_are_empty_and_do_not_change_the_others():
  all_rows = _run(_batch(), eos_id=-1)
  got = _run(_batch(_mask=np.array([True, False, True])), eos_id=-1)
  assert got["lengths"].tolist() == [_N, 0, _N]
  assert not got["tokens"][1].any() and got["logprob"][1] == 0
  np.testing.assert_array_equal(got["tokens"][[0, 2]], all_rows["tokens"][[0, 2]])


def test_a_batch_of_nothing_but_masked_rows_returns():
  got = _run(_batch(_mask=np.zeros(_B, bool)))
  assert not got["tokens"].any() and not got["lengths"].any()


def test_more_padding_changes_nothing():
  wide = _batch()
  for key, fill in (("text", 0), ("mask_ar", 1), ("mask_input", 0)):
    wide[key] = np.pad(wide[key], [(0, 0), (0, 4)], constant_values=fill)
  got, want = _run(wide, eos_id=-1), _run(_batch(), eos_id=-1)
  np.testing.assert_array_equal(got["tokens"], want["tokens"])
  np.testing.assert_allclose(got["logprob"], want["logprob"], rtol=0, atol=1e-4)


def test_a_single_new_token():
  got = _run(_batch(), eos_id=-1, max_new_tokens=1)
  np.testing.assert_array_equal(got["tokens"], _run(_batch(), eos_id=-1)["tokens"][:, :1])


def test_several_images_per_row_and_none():
  batch = _batch()
  twice = _run({**batch, "image": np.stack([batch["image"]] * 2, axis=1)}, eos_id=-1)
  assert twice["tokens"].shape == (_B, _N)
  without = {k: v for k, v in batch.items() if k != "image"}
  none = _run(without, eos_id=-1)
  logits = _forward(_config(), without, none["tokens"])
  np.testing.assert_array_equal(logits.argmax(-1), none["tokens"])


def test_draws_depend_on_the_key_and_the_row_number_only():
  sampled = functools.partial(_run, eos_id=-1, sampler="temperature(2)")
  one = sampled(_batch(), key=jax.random.key(1))
  again = sampled(_batch(), key=jax.random.key(1))
  np.testing.assert_array_equal(one["tokens"], again["tokens"])
  other = sampled(_batch(), key=jax.random.key(2))
  assert (one["tokens"] != other["tokens"]).any()
  turned = {k: v[::-1] for k, v in _batch().items()}
  np.testing.assert_array_equal(
    sampled(turned, key=jax.random.key(1))["tokens"][::-1], one["tokens"]
  )


def test_sampled_log_probabilities_are_the_models():
  model_config, batch = _config(), _batch()
  got = _run(batch, model_config, key=jax.random.key(1), eos_id=-1, sampler="temperature(2)")
  logits = _forward(model_config, batch, got["tokens"])
  assert (logits.argmax(-1) != got["tokens"]).any()
  want = _logprob(logits, got["tokens"])
  np.testing.assert_allclose(got["token_logprob"], want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["greedy", "top_k(2)"])
def test_banned_tokens_never_come_and_the_others_keep_their_log_probability(sampler):
  model_config, batch = _config(), _batch()
  banned = tuple(int(t) for t in np.unique(_run(batch, model_config)["tokens"])) + (_EOS,)
  got = _run(batch, model_config, sampler=sampler, banned=banned, key=jax.random.key(0))
  assert not np.isin(got["tokens"], banned).any() and got["lengths"].tolist() == [_N] * _B
  logits = _forward(model_config, batch, got["tokens"])
  want = _logprob(logits, got["tokens"])
  np.testing.assert_allclose(got["token_logprob"], want, rtol=0, atol=1e-4)
  if sampler == "greedy":
    logits[..., list(banned)] = -np.inf
    np.testing.assert_array_equal(got["tokens"], logits.argmax(-1))


def test_a_bfloat16_cache_is_half_the_size_and_close():
  model_config, batch = _config(), _batch()
  args = [batch[key] for key in ("image", "text", "mask_ar", "mask_input")]

  @functools.partial(jax.jit, static_argnums=0)
  def run(dtype):
    return paligemma.prefill(
      model_config, _params(model_config), *args, cache_len=14, cache_dtype=dtype
    )

  full, cache = run(None)
  half, small = run(jnp.bfloat16)
  assert small.k.nbytes * 2 == cache.k.nbytes == cache.k.size * 4
  assert 0 < np.abs(half - full).max() < 0.1
