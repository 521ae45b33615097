"""A few steps of the tiny model on embedded scenes: the shortest run, used by tests."""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources


@pj.sweepable
def get_config(steps: int = 12, batch_size: int = 8, num_rows: int = 40):
  c = pj.default_config()
  c.model.update(variant="tiny", res=56)

  train = sources.Scenes(split="train", num_rows=num_rows, size=56)
  val = train.replace(split="val", num_rows=10)
  ops = (pp.Decode(), pp.Resize(56))

  c.train.update(source=train, pp=ops, text_len=40, batch_size=batch_size, total=f"{steps} steps")
  c.optim.update(lr=1e-3, wd=1e-4)
  c.ckpt.every = "4 steps"
  c.log.update(every="1 steps", tensorboard=False)
  c.evals = (
    evals.Perplexity("val/loss", val, ops, every="50%", text_len=40),
    evals.WritePredictions("val/pred", val, ops, every="50%", text_len=24, max_len=16),
  )
  return c
