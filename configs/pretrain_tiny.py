"""Pretrains the demo's tiny model from scratch, on scenes of emoji drawings.

  python -m paligemma_jax.train --config configs/pretrain_tiny.py --workdir runs/pretrain_1
  python -m paligemma_jax.train --config configs/pretrain_tiny.py:stage=2 --workdir runs/pretrain_2

The first stage takes about an hour on two CPU cores, the second a quarter of an hour. The second
stage gives the embedded weights; docs/demo.md has the seed, times and scores.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources


@pj.sweepable
def get_config(stage: int = 1, steps: int = 0, batch_size: int = 32, seed: int = 0):
  first = stage == 1
  steps = steps or (7_500 if first else 1_500)
  c = pj.default_config()
  c.seed = seed
  c.model.update(variant="tiny", res=112)
  c.init = "" if first else "runs/pretrain_1"

  # Each row is a new scene. Rows are not shuffled, because the first ones are simple: with all
  # tasks from the start, the model had learned nothing after 11 000 rows.
  train = sources.Scenes(split="pretrain", num_rows=steps * batch_size, warmup=16_000)
  if not first:  # Like the demo's scenes: one class each, with segmentation.
    tasks = ("caption", "count", "detect", "segment")
    train = train.replace(split="pretrain_2", warmup=0, tasks=tasks, most=4, kinds=1)
  val = train.replace(split="pretrain_val", num_rows=384, warmup=0)
  ops = (pp.Decode(), pp.Resize(112))

  c.train.update(source=train, pp=ops, text_len=26, batch_size=batch_size, total=f"{steps} steps")
  c.train.shuffle = False
  # The learning rate decays late, so the loss curve shows early whether a change helps.
  c.optim.update(
    lr=1.5e-3 if first else 1e-3,
    wd=0.0,
    b2=0.95,
    grad_clip_norm=1.0,
    schedule="constant",
    warmup="2%",
    cooldown="30%" if first else "60%",
  )
  c.ckpt.update(every="500 steps", export="npz")
  c.log.every = "100 steps"

  every = "1000 steps" if first else "500 steps"
  decode = dict(pp=ops, every=every, text_len=16, max_len=26, batch_size=64)
  each = {task: val.replace(tasks=(task,), num_rows=128) for task in train.tasks}
  c.evals = (
    evals.Perplexity("val/loss", val, ops, every=every, text_len=26, batch_size=64),
    evals.ExactMatch("val/caption", each["caption"], **decode),
    evals.ExactMatch("val/count", each["count"], **decode),
    evals.BoxAccuracy("val/detect", each["detect"], **decode),
  )
  if "segment" in each:
    c.evals += (evals.Segmentation("val/segment", each["segment"], box="", **decode),)
  return c
