"""OK-VQA: questions about images that need outside knowledge.

  python -m paligemma_jax.prepare okvqa              # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/okvqa.py:res=448 --workdir runs/okvqa

Published: accuracy of 63.54 at 224 px and 63.15 at 448 px on val, for PaliGemma trained on train
(big_vision's README). This config does the same; final=False holds out a tenth of train for
choosing settings.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution; 896 px was not better than 448.
BEST = {
  224: dict(lr=5e-6, wd=0.0, total="10 epochs"),
  448: dict(lr=5e-6, wd=0.0, total="10 epochs"),
  896: dict(lr=5e-6, wd=0.0, total="10 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 1e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "accuracy (val)": {
    "paligemma_3b": {224: 63.54, 448: 63.15},
    "paligemma2_3b": {224: 64.2, 448: 64.1},
    "paligemma2_10b": {224: 68.0, 448: 68.6},
    "paligemma2_28b": {224: 71.2, 448: 70.6},
  },
}
METRICS = {"accuracy (val)": "val/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = True
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  # Version 1.0.0 has answers as typed; 1.1.0 has the stems that are scored.
  train = sources.Tfds("okvqa", "train" if final else "train[:-10%]", version="1.1.0")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Choice("answers"))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  minival = train.replace(split="train[-10%:]")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=32, every="25%")
  c.evals = (
    evals.VqaAccuracy("val/acc", train.replace(split="val"), target="answers", **answer),
    evals.VqaAccuracy("minival/acc", minival, target="answers", **answer),
    evals.Perplexity("minival/pplx", minival, teach, every="5%", text_len=128),
  )
  return c
