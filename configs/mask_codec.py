"""A small mask codec, trained on embedded drawings and simple shapes; selected by `codec=""`.

  python tools/train_mask_codec.py --config configs/mask_codec.py --out codec.npz

Its result is assets/demo/mask_codec.npz. To train a codec of your own, replace `sources.Masks` by
another source of masks; the published sizes are code_dim=512, encoder=(16, 32, 64, 128),
decoder=(128, 128, 64, 32, 16).
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
