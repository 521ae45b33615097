"""The demo: fine-tunes a small pretrained model on new classes and new prompts.

  python -m paligemma_jax.train --config transfers/demo.py --workdir runs/demo

The model was pretrained on 64 classes of drawings with four short prompts. The demo trains on 12
held-out classes, with prompts in new words, for captioning, counting, detection and segmentation.
It prints a table of scores (baseline, before, after) and writes a gallery of predictions. It takes
a few minutes on two CPU cores.
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

  # 1. The pretrained model: made by configs/pretrain_tiny.py, embedded in the package.
  c.model.update(variant="tiny", res=112)
  c.init = "tiny_112"

  # 2. The data: scenes with one to four drawings of a held-out class; the four tasks alternate. The
  #    first rows are captions of single drawings, so rows are not shuffled.
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

  # 4. Scores of each task before and after training, on held-out scenes.
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
