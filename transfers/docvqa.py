"""DocVQA: questions about scanned document pages.

  python -m paligemma_jax.prepare docvqa             # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/docvqa.py:res=896 --workdir runs/docvqa

Published: ANLS of 43.74 at 224 px, 78.02 at 448 px and 84.77 at 896 px on the test server, for
PaliGemma trained on train and val (big_vision's README). This config trains on 95 % of train, holds
out the rest as minival, and scores val too; final=True trains on train and val. test/server writes
the file for the test server.

The prompt is the question alone, without 'answer en'.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep, the same at each resolution.
BEST = {
  224: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
  448: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
  896: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 6e-6, "paligemma2_10b": 3e-6, "paligemma2_28b": 3e-6}

# Published scores: {measure: {model: {res: score}}}. The test server's are from big_vision's
# README; of val, PaliGemma's are from arXiv:2412.03555, Table 15, PaliGemma 2's from its Table 13.
PUBLISHED = {
  "ANLS (val)": {
    "paligemma_3b": {224: 37.8, 448: 74.1},
    "paligemma2_3b": {224: 39.9, 448: 73.6},
    "paligemma2_10b": {224: 43.9, 448: 76.6},
    "paligemma2_28b": {224: 44.9, 448: 76.1},
  },
  "ANLS (test server)": {
    "paligemma_3b": {224: 43.74, 448: 78.02, 896: 84.77},
  },
}
METRICS = {"ANLS (val)": "val/acc/anls"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = False
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("docvqa", "train+val" if final else "train[:-5%]")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Copy("question", "prefix"))
  teach = (*ask, pp.Choice("answers", each_once=False))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val, test = train.replace(split="val"), train.replace(split="test")
  minival, minitrain = train.replace(split="train[-5%:]"), train.replace(split="train[:5%]")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=32)
  target = dict(target="answers", lower=True, every="12.5%")
  c.evals = (
    evals.VqaAccuracy("val/acc", val, **target, **answer),
    evals.VqaAccuracy("minival/acc", minival, **target, **answer),
    evals.VqaAccuracy("minitrain/acc", minitrain, **target, **answer),
    evals.Perplexity("val/pplx", val, teach, every="12.5%", text_len=128),
    evals.ServerFile("test/server", test, format="docvqa", every="end", **answer),
  )
  return c
