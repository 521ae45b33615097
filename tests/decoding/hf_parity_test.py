"""Greedy tokens against transformers, whose prompts are padded on the left."""

import numpy as np
import pytest

from paligemma_jax.decoding import generate
from tests.models import reference

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("name", reference.HF_NAMES)
def test_greedy_tokens_are_identical(name):
  model_config, params, golden = reference.hf_model(name)
  want = golden["generated"]
  run = generate.make_generate(model_config, generate.Options(want.shape[1]))
  got = run(params, _right_padded(model_config, golden))
  np.testing.assert_array_equal(got["tokens"], want)
  ends = [row.tolist().index(1) + 1 if 1 in row else len(row) for row in want]
  assert got["lengths"].tolist() == ends
  assert np.all(np.isfinite(got["logprob"])) and np.all(np.asarray(got["logprob"]) < 0)


def _right_padded(model_config, golden):
  """The prompts without image placeholders, moved to the left."""
  ids, real = golden["prompt_ids"], golden["prompt_mask"] == 1
  rows = [row[keep][model_config.num_image_tokens :] for row, keep in zip(ids, real, strict=True)]
  assert len({len(row) for row in rows}) > 1
  text = np.zeros((len(rows), max(map(len, rows))), np.int32)
  mask_input = np.zeros_like(text)
  for i, row in enumerate(rows):
    text[i, : len(row)], mask_input[i, : len(row)] = row, 1
  return {
    "image": golden["pixel_values"].transpose(0, 2, 3, 1),
    "text": text,
    "mask_ar": 1 - mask_input,
    "mask_input": mask_input,
  }
