"""What a codec is trained on: every mask in all eight positions, the same in every run."""

import itertools

import numpy as np
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.regions import mask_codec
from tools import train_mask_codec


def _recipe(**fields):
  held_out = sources.Masks("held_out", num_rows=3)
  return mask_codec.CodecRecipe(sources.Masks(num_rows=4), held_out, **fields)


def test_masks_are_squares_between_minus_one_and_one():
  squares = train_mask_codec.squares(_recipe().source)
  assert squares.shape == (4, 64, 64) and squares.dtype == np.float32
  assert squares.min() == -1 and squares.max() == 1
  with pytest.raises(errors.ConfigError, match="no rows"):
    train_mask_codec.squares(sources.Masks(num_rows=0))


def test_batches_show_a_mask_in_all_eight_positions_and_are_a_function_of_the_step():
  mask = np.zeros((1, 64, 64), np.float32)
  mask[0, 5, 20] = 1
  batches = list(itertools.islice(train_mask_codec.batches(_recipe(), mask), 8))
  seen = {tuple(np.argwhere(m)[0]) for batch in batches for m in batch}
  low, high = (5, 58), (20, 43)
  assert seen == {*itertools.product(low, high), *itertools.product(high, low)}
  assert mask[0, 5, 20] == 1  # Batches are copies.
  again = itertools.islice(train_mask_codec.batches(_recipe(), mask), 8)
  assert all((a == b).all() for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(
  ("fields", "hint"),
  [
    (dict(num_codes=129), "num_codes=129"),
    (dict(batch_size=4), "too small"),
    (dict(encoder=(8, 8)), "four numbers"),
    (dict(steps=0), "at least 1"),
  ],
)
def test_a_recipe_that_cannot_work_is_refused(fields, hint):
  with pytest.raises(errors.ConfigError, match=hint):
    _recipe(**fields)


def test_the_shipped_config_makes_a_codec_of_the_shipped_shapes():
  from configs import mask_codec as config

  recipe = config.get_config()
  codec = mask_codec.open_codec()
  assert {name: array.shape for name, array in codec.weights.items()} == recipe.shapes()
  assert set(recipe.shapes()) == set(mask_codec.NAMES)
