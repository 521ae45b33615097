"""The tiny model from scratch, on scenes of emoji drawings: what the demo starts from.

  python -m paligemma_jax.train --config configs/pretrain_tiny.py --workdir runs/pretrain_tiny

Under an hour on two CPU cores. The embedded weights are its result; see
paligemma_jax/assets/demo/README.md for seed, time and scores.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources


@pj.sweepable
def get_config(steps: int = 7_500, batch_size: int = 32, lr: float = 1.5e-3, seed: int = 0):
  c = pj.default_config()
  c.seed = seed
  c.model.update(variant="tiny", res=112)

  # Every row is a new scene, so nothing is seen twice. In order, because the first rows are simple
  # ones: the mixture alone had taught nothing after 11 000 rows, when we stopped.
  train = sources.Scenes(
      split="pretrain", num_rows=steps * batch_size, classes="base", warmup=16_000
  )
  val = train.replace(split="pretrain_val", num_rows=384, warmup=0)
  ops = (pp.Decode(), pp.Resize(112))

  c.train.update(source=train, pp=ops, text_len=24, batch_size=batch_size, total=f"{steps} steps")
  c.train.shuffle = False
  # The rate falls late, so that the curve tells early whether a change of the recipe pays.
  c.optim.update(
      lr=lr, wd=0.0, b2=0.95, schedule="constant", warmup="2%", cooldown="30%", clip=1.0
  )
  c.ckpt.update(every="1000 steps", export="npz")
  c.log.every = "100 steps"

  decode = dict(pp=ops, every="1000 steps", text_len=16, max_len=16, batch_size=64)
  c.evals = (
      evals.Perplexity("val/loss", val, ops, every="1000 steps", text_len=24, batch_size=64),
      evals.ExactMatch("val/caption", val.replace(tasks=("caption",), num_rows=128), **decode),
      evals.ExactMatch("val/count", val.replace(tasks=("count",), num_rows=128), **decode),
      evals.BoxAccuracy("val/detect", val.replace(tasks=("detect",), num_rows=128), **decode),
  )
  return c
