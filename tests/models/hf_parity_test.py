"""Logits and log-probabilities against transformers, PaliGemma 1 and 2, float32."""

import jax
import numpy as np
import pytest

from paligemma_jax.models import paligemma
from tests.models import reference

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("name", reference.HF_NAMES)
def test_logits_and_log_probabilities_on_every_real_token(name):
  model_config, params, golden = reference.hf_model(name)
  first = model_config.num_image_tokens
  ids, real, suffix = (
    golden[key][:, first:] for key in ("input_ids", "attention_mask", "token_type_ids")
  )
  image = golden["pixel_values"].transpose(0, 2, 3, 1)

  @jax.jit
  def forward(params):
    x_BTD = paligemma.text_features(model_config, params, image, ids, suffix, mask_input_BT=real)
    return paligemma.logits(model_config, params, x_BTD)

  logits = np.asarray(forward(params))
  error = np.abs(logits - golden["logits"][:, first:])[real == 1]
  assert error.max() <= 1e-4
  assert np.abs(golden["logits"]).max() > 1  # Logits of a model that does something.

  logp = np.asarray(jax.nn.log_softmax(logits[:, :-1]))
  logp = np.take_along_axis(logp, ids[:, 1:, None], axis=-1)[..., 0]
  supervised = (suffix * real)[:, 1:] == 1
  theirs = golden["token_logprob"][:, first:]
  assert supervised.sum() > 15
  np.testing.assert_array_equal(supervised, theirs != 0)
  np.testing.assert_allclose(logp[supervised], theirs[supervised], rtol=0, atol=1e-4)
