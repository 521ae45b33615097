"""The demo: teach a small pretrained model new things to see, and new ways to be asked.

  python -m paligemma_jax.train --config transfers/demo.py --workdir runs/demo

The pretrained model knows 64 kinds of drawings and four short prompts. Here it meets 12 kinds that
were held out of its pretraining, and questions in words that it has never read: what is there, how
many, where, and which pixels. It ends with a table of scores (baseline, before, after) and a
gallery of what it sees. A few minutes on two cores.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources


@pj.sweepable
def get_config(
  steps: int = 400, batch_size: int = 32, lr: float = 1.5e-3, kinds: int = 1, seed: int = 0
):
  c = pj.default_config()
  c.seed = seed

  # 1. The model to start from: made by configs/pretrain_tiny.py, embedded in the package.
  c.model.update(variant="tiny", res=112)
  c.init = "tiny_112"

  # 2. The data: scenes of one to four held-out drawings of a kind, four tasks in turns, in the
  #    demo's own words. The first rows only name single drawings; so rows come in order.
  train = sources.Scenes(
    split="train",
    num_rows=steps * batch_size,
    classes="heldout",
    prompts="demo",
    most=4,
    kinds=kinds,
    warmup=1600,
    tasks=("caption", "count", "detect", "segment"),
  )
  ops = (pp.Decode(), pp.Resize(112))

  # 3. The training run.
  c.train.update(source=train, pp=ops, text_len=30, batch_size=batch_size, total=f"{steps} steps")
  c.train.shuffle = False
  c.optim.update(lr=lr, wd=0.0, b2=0.95, schedule="cosine", warmup="5%")
  c.ckpt.every = "100 steps"
  c.log.every = "20 steps"

  # 4. What to measure, before and after: each task, on scenes that training never shows.
  val = train.replace(split="val", num_rows=200, warmup=0)
  ask = dict(pp=ops, every="end", text_len=12, max_len=26, batch_size=50, start_limit=50)
  c.evals = (
    evals.ExactMatch("val/caption", val.replace(tasks=("caption",)), **ask),
    evals.ExactMatch("val/count", val.replace(tasks=("count",)), **ask),
    evals.BoxAccuracy("val/boxes", val.replace(tasks=("detect",)), **ask),
    evals.Segmentation("val/masks", val.replace(tasks=("segment",)), box="", **ask),
    evals.WritePredictions("val/pred", val.replace(num_rows=24), **ask),
  )
  return c
