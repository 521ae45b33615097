"""Greedy decoding against big_vision on its small models, from right-padded prompts.

The reference goes on after a row's end of text; ours pads, so tokens are compared up to there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.decoding import generate
from paligemma_jax.models import paligemma
from tests.models import reference

pytestmark = pytest.mark.usefixtures("way")

_NUM_NEW = 10


def _batch(golden):
  return {key: golden[key] for key in ("image", "text", "mask_ar", "mask_input", "_mask")}


def _generate(name, batch, **options):
  model_config = reference.bv_config(name, final_softcap=options.pop("final_softcap", 0.0))
  run = generate.make_generate(model_config, generate.Options(_NUM_NEW), **options)
  return {k: np.asarray(v) for k, v in run(reference.bv_params(name), batch).items()}


@pytest.mark.parametrize("name", reference.BV_NAMES)
@pytest.mark.parametrize("cache, atol", [("f32cache", 1e-4), ("bf16cache", 2e-3)])
def test_tokens_and_log_probabilities(name, cache, atol):
  golden = reference.arrays(f"bv/{name}_decode.npz")
  real = golden["_mask"]
  got = _generate(name, _batch(golden), cache_dtype=jnp.bfloat16 if cache == "bf16cache" else None)
  want = golden[f"{cache}_tokens"]
  assert real.sum() == 4 and not (want[real] == 1).any()  # No row ends: all ten tokens count.
  np.testing.assert_array_equal(got["tokens"][real], want[real])
  # Where a cap exists the reference has it from the second token on; see the next test.
  same_rule = slice(0, 1 if name == "tiny2" else None)
  np.testing.assert_allclose(
    got["token_logprob"][real, same_rule],
    golden[f"{cache}_logp"][real, same_rule],
    rtol=0,
    atol=atol,
  )


def test_our_softcap_covers_the_first_token_where_the_references_prefill_skips_it():
  golden = reference.arrays("bv/tiny2_decode.npz")
  real = golden["_mask"]
  got = _generate("tiny2", _batch(golden), final_softcap=15.0)
  np.testing.assert_array_equal(got["tokens"][real], golden["f32cache_tokens"][real])
  ours, theirs = got["token_logprob"][real], golden["f32cache_logp"][real]
  np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], rtol=0, atol=1e-4)
  assert (np.abs(ours[:, 0] - theirs[:, 0]) > 0.01).any()
  # Their raw first logits, capped by hand, give ours.
  capped = 15 * np.tanh(golden["f32cache_step_logits"][real, 0].astype(np.float64) / 15)
  logp = capped - np.log(np.exp(capped).sum(-1, keepdims=True))
  first = np.take_along_axis(logp, got["tokens"][real][:, :1], axis=1)[:, 0]
  np.testing.assert_allclose(ours[:, 0], first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", reference.BV_NAMES)
def test_logits_of_every_step(name):
  golden = reference.arrays(f"bv/{name}_decode.npz")
  model_config, params = reference.bv_config(name), reference.bv_params(name)
  batch = _batch(golden)
  inputs = [batch[key] for key in ("image", "text", "mask_ar", "mask_input")]
  cache_len = reference.NUM_IMAGE_TOKENS + batch["text"].shape[1] + 2
  prefill = jax.jit(
    lambda params: paligemma.prefill(model_config, params, *inputs, cache_len=cache_len)
  )
  extend = jax.jit(functools.partial(paligemma.extend, model_config))
  logits, cache = prefill(params)
  real = golden["_mask"]
  for step in range(3):
    want = golden["f32cache_step_logits"][real, step]
    got = np.asarray(logits)[real]
    if name == "tiny2" and step:
      got = 15 * np.tanh(got / 15)
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-4)
    logits, cache = extend(params, golden["f32cache_tokens"][:, step, None], cache)
    logits = logits[:, 0]


@pytest.mark.parametrize("name", reference.BV_NAMES)
def test_the_loop_stops_when_the_one_real_row_is_done(name):
  golden = reference.arrays(f"bv/{name}_decode.npz")
  batch = {**_batch(golden), "_mask": np.arange(5) == 0}
  got = _generate(name, batch, eos_id=int(golden["f32cache_row0stop_eos"]))
  want = golden["f32cache_row0stop_tokens"][0]
  np.testing.assert_array_equal(got["tokens"][0], want)
  assert got["lengths"].tolist() == [np.count_nonzero(want), 0, 0, 0, 0]
  assert 0 < got["lengths"][0] < _NUM_NEW
