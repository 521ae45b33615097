"""OCR-VQA: questions about title, author and genre of books, from their covers.

  python -m paligemma_jax.prepare ocrvqa             # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/ocrvqa.py:res=448 --workdir runs/ocrvqa

Published: accuracy of 73.24 at 224 px, 75.60 at 448 px and 75.90 at 896 px on test, for PaliGemma
trained on train and val (big_vision's README). This config does the same; final=False holds out the
first 20 000 rows of val for choosing settings.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution.
BEST = {
  224: dict(lr=3e-6, wd=0.0, total="3 epochs"),
  448: dict(lr=3e-6, wd=0.0, total="3 epochs"),
  896: dict(lr=1e-5, wd=0.0, total="3 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 1e-6, "paligemma2_10b": 3e-7, "paligemma2_28b": 3e-7}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README
# (arXiv:2407.07726, Table 1 has 72.3, 74.6, 74.9), PaliGemma 2's are from arXiv:2412.03555, Table
# 13.
PUBLISHED = {
  "accuracy (test)": {
    "paligemma_3b": {224: 73.24, 448: 75.6, 896: 75.9},
    "paligemma2_3b": {224: 73.4, 448: 75.7},
    "paligemma2_10b": {224: 74.7, 448: 76.3},
    "paligemma2_28b": {224: 75.3, 448: 76.6},
  },
}
METRICS = {"accuracy (test)": "test/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = True
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("ocrvqa", "train+val" if final else "train+val[20_000:]")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Copy("answer", "suffix"))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  test, val = train.replace(split="test"), train.replace(split="val")
  minitrain = train.replace(split="train")
  answer = dict(pp=ask, target="answer", lower=True, batch_size=256, text_len=128, max_len=32)
  c.evals = (
    evals.VqaAccuracy("test/acc", test, every="end", **answer),
    evals.VqaAccuracy("minival/acc", val, every="25%", limit=20_000, **answer),
    evals.VqaAccuracy("minitrain/acc", minitrain, every="12.5%", limit=5120, **answer),
    evals.Perplexity("minival/pplx", val, teach, every="10%", limit=20_000, text_len=128),
  )
  return c
