"""Forward pass against big_vision on its small models.

The reference's own noise floor, jitted against eager, is 2e-5 on logits of up to 22.
"""

import jax
import numpy as np
import pytest

from paligemma_jax.core import trees
from paligemma_jax.models import attention_mask
from paligemma_jax.models import gemma
from paligemma_jax.models import paligemma
from paligemma_jax.models import siglip
from tests.models import reference

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(scope="module", params=reference.BV_NAMES)
def model(request):
  name = request.param
  inputs = reference.arrays(f"bv/{name}_inputs.npz")
  text, mask_ar = inputs["text"][:, :-1], inputs["mask_ar"][:, :-1]
  golden = reference.arrays(f"bv/{name}_forward.npz")
  return name, inputs["image"], text, mask_ar, golden


def _tower(name, tower):
  return trees.unflatten(reference.bv_params(name))[tower]


def test_flat_names_and_shapes_equal_the_published_table(model):
  name = model[0]
  ours = {k: v.shape for k, v in paligemma.param_shapes(reference.bv_config(name)).items()}
  assert ours == {k: v.shape for k, v in reference.bv_params(name).items()}


def test_vision_tower(model):
  name, image, _, _, golden = model
  model_config = reference.bv_config(name)
  vit = siglip.Siglip(model_config.img, model_config.llm.width, np.float32)
  variables = {"params": _tower(name, "img")}
  run = jax.jit(lambda v, x: vit.apply(v, x, mutable="intermediates"))
  tokens, kept = run(variables, image)
  (encoded,) = kept["intermediates"]["encoded"]
  np.testing.assert_allclose(encoded, golden["img_encoded"], rtol=0, atol=1e-5)
  np.testing.assert_allclose(tokens, golden["image_embeddings"], rtol=0, atol=1e-5)
  stem = siglip.PatchEmbedding(model_config.img, np.float32).apply(
    {"params": variables["params"]["embedding"]}, image
  )
  np.testing.assert_allclose(stem, golden["img_stem"].reshape(stem.shape), rtol=0, atol=1e-5)


def test_text_embeddings(model):
  name, _, text, _, golden = model
  llm = gemma.Gemma(reference.bv_config(name).llm, np.float32)
  got = llm.apply({"params": _tower(name, "llm")}, text, method="embed")
  np.testing.assert_array_equal(got, golden["text_embeddings"])


def test_attention_mask(model):
  _, _, _, mask_ar, golden = model
  mask = attention_mask.prefix_lm(np.pad(mask_ar, [(0, 0), (reference.NUM_IMAGE_TOKENS, 0)]))
  np.testing.assert_array_equal(mask.dense(), golden["attn_mask"])


def test_decoder_features_at_all_positions(model):
  name, _, _, mask_ar, golden = model
  llm = gemma.Gemma(reference.bv_config(name).llm, np.float32)
  variables = {"params": _tower(name, "llm")}
  x = np.concatenate([golden["image_embeddings"], golden["text_embeddings"]], axis=1)
  mask = attention_mask.prefix_lm(np.pad(mask_ar, [(0, 0), (reference.NUM_IMAGE_TOKENS, 0)]))
  encoded, _ = jax.jit(llm.apply)(variables, x, mask)
  np.testing.assert_allclose(encoded, golden["llm_encoded"], rtol=0, atol=2e-4)
  pre_logits = llm.apply(variables, encoded, method="norm")
  np.testing.assert_allclose(pre_logits, golden["llm_pre_logits"], rtol=0, atol=1e-4)


def test_logits_end_to_end(model):
  name, image, text, mask_ar, golden = model
  model_config, params = reference.bv_config(name), reference.bv_params(name)

  @jax.jit
  def forward(params):
    x_BTD = paligemma.text_features(model_config, params, image, text, mask_ar)
    return paligemma.logits(model_config, params, x_BTD)

  logits = np.asarray(forward(params))
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, golden["text_logits"], rtol=0, atol=1e-4)
  np.testing.assert_array_equal(logits.argmax(-1), golden["text_tokens"])


def test_our_softcap_applies_to_every_logit_where_the_references_training_logits_skip_it():
  """The reference has two rules: none in training, the cap in its decoder; ours is the latter."""
  model_config = reference.bv_config("tiny2", final_softcap=15.0)
  golden = reference.arrays("bv/tiny2_forward.npz")
  x = golden["llm_pre_logits"][:, reference.NUM_IMAGE_TOKENS :]
  capped = np.asarray(paligemma.logits(model_config, reference.bv_params("tiny2"), x))
  np.testing.assert_allclose(capped, golden["llm_logits_softcapped_textpos"], rtol=0, atol=2e-5)
  np.testing.assert_allclose(capped, 15 * np.tanh(golden["text_logits"] / 15), rtol=0, atol=2e-5)
  assert np.abs(capped - golden["text_logits"]).max() > 5
