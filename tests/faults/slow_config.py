"""A run of six steps that can be made to hang: in a row op, of training or evaluation, or a score.

The environment variable SLOW says where ('train', 'eval', 'score'), so that the same run can be
gone on with without it.
"""

import os
import time

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources


@pj.spec
class Wait:
  """Hangs for a while where SLOW says so: of training rows from the second epoch (step 4) on."""

  where: str = "train"

  def needs(self):
    return ("image",)

  def makes(self):
    return ("image",)

  def __call__(self, row, rng):
    del rng
    if os.environ.get("SLOW") == self.where and (self.where == "eval" or row["_epoch"]):
      time.sleep(4.0 if self.where == "eval" else 50.0)
    return row


@pj.spec
class SlowScore(evals.Perplexity):
  """Hangs in what it computes of more than one row."""

  def score(self, rows, outputs):
    if os.environ.get("SLOW") == "score" and len(rows) > 1:
      time.sleep(50.0)
    return evals.Perplexity.score(self, rows, outputs)


@pj.sweepable
def get_config(save: str = "1000 steps", evaluate: int = 1):
  c = pj.default_config()
  layers = {"llm": {"depth": 1}, "img": {"depth": 1}}
  c.model.update(variant="tiny", res=56, overrides=layers)
  rows = sources.Scenes(split="train", num_rows=24, size=56)
  ops = (pp.Decode(), pp.Resize(56))
  c.train.update(
    source=rows,
    pp=(*ops, Wait("train")),
    text_len=40,
    batch_size=8,
    total="6 steps",
  )
  c.optim.update(lr=1e-3)
  c.ckpt.every = save
  c.log.update(every="1 steps", tensorboard=False)
  if evaluate:
    c.evals = (
      SlowScore(
        "val",
        rows,
        (*ops, Wait("eval")),
        every="3 steps",
        start_limit=1,
        text_len=40,
        batch_size=8,
      ),
    )
  return c
