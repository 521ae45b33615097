"""A small mask codec, from embedded drawings and simple shapes: what `codec=""` stands for.

  python tools/train_mask_codec.py --config configs/mask_codec.py --out codec.npz

The shipped assets/demo/mask_codec.npz is its result. For a codec of your own, put any source of
masks in the place of `sources.Masks` and, for the published sizes, code_dim=512,
encoder=(16, 32, 64, 128), decoder=(128, 128, 64, 32, 16).
"""

import paligemma_jax as pj
from paligemma_jax import sources
from paligemma_jax.regions import mask_codec


@pj.sweepable
def get_config(steps: int = 3200, num_masks: int = 16_000, lr: float = 3e-3, seed: int = 0):
  return mask_codec.CodecRecipe(
    source=sources.Masks(num_rows=num_masks, seed=seed),
    held_out=sources.Masks("held_out", num_rows=240, classes="heldout", simple=0.0, vary=False),
    steps=steps,
    lr=lr,
    seed=seed,
  )
