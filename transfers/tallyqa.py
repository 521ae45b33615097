"""TallyQA: simple and complex counting questions; and CountBenchQA.

  python -m paligemma_jax.prepare tallyqa            # prints what to download; --raw DIR builds it
  python -m paligemma_jax.prepare countbenchqa
  python -m paligemma_jax.train --config transfers/tallyqa.py:res=448 --workdir runs/tallyqa

Published: 81.72 on simple and 69.56 on complex questions at 224 px, 84.86 and 72.27 at 448 px
(big_vision's README); on CountBenchQA 81.9 and 83.1 (arXiv:2407.07726, Table 1). This config trains
on train and scores test, as is usual.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution.
BEST = {
  224: dict(lr=1e-5, wd=0.0, total="2 epochs"),
  448: dict(lr=1e-5, wd=1e-6, total="2 epochs"),
  896: dict(lr=7e-6, wd=7e-7, total="2 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate: the best for the sum over both
# kinds of questions (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 1e-5, "paligemma2_10b": 3e-6, "paligemma2_28b": 3e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# except CountBenchQA's from arXiv:2407.07726, Table 1; PaliGemma 2's are from arXiv:2412.03555,
# Table 13.
PUBLISHED = {
  "accuracy (test, simple)": {
    "paligemma_3b": {224: 81.72, 448: 84.86},
    "paligemma2_3b": {224: 81.8, 448: 85.3},
    "paligemma2_10b": {224: 83.2, 448: 86.2},
    "paligemma2_28b": {224: 83.4, 448: 85.7},
  },
  "accuracy (test, complex)": {
    "paligemma_3b": {224: 69.56, 448: 72.27},
    "paligemma2_3b": {224: 70.3, 448: 73.6},
    "paligemma2_10b": {224: 73.4, 448: 76.7},
    "paligemma2_28b": {224: 74.2, 448: 76.8},
  },
  "accuracy (CountBenchQA)": {
    "paligemma_3b": {224: 81.9, 448: 83.1},
    "paligemma2_3b": {224: 81.0, 448: 82.0},
    "paligemma2_10b": {224: 84.0, 448: 85.3},
    "paligemma2_28b": {224: 86.4, 448: 87.4},
  },
}
METRICS = {  # Our metric for each published measure.
  "accuracy (test, simple)": "test/acc/acc/simple",
  "accuracy (test, complex)": "test/acc/acc/complex",
  "accuracy (CountBenchQA)": "countbench/acc/acc",
}


@pj.sweepable
def get_config(res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam"):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("tallyqa", "train")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Format("{answer}", out="suffix"))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  test, minitrain = train.replace(split="test"), train.replace(split="train[:5%]")
  countbench = sources.Tfds("countbenchqa", "huggingface")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=32)
  c.evals = (
    evals.TallyQa("test/acc", test, every="25%", **answer),
    evals.TallyQa("minitrain/acc", minitrain, every="10%", **answer),
    evals.TallyQa("countbench/acc", countbench, target="number", simple="", every="10%", **answer),
    evals.Perplexity("test/pplx", test, teach, every="10%", text_len=128),
  )
  return c
