"""TextVQA: questions that need reading, about everyday scenes.

  python -m paligemma_jax.prepare textvqa            # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/textvqa.py:res=448 --workdir runs/textvqa

Published: 55.47 at 224 px, 73.15 at 448 px and 76.48 at 896 px on the test server, for PaliGemma
trained on train and val (big_vision's README). This config trains on train and scores val;
final=True adds val to the training data. test/server writes the file for the test server.

Images that lie on their side are rotated when the dataset is built, as in the reference.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution.
BEST = {
  224: dict(lr=3e-6, wd=0.0, total="5 epochs"),
  448: dict(lr=3e-6, wd=3e-7, total="10 epochs"),
  896: dict(lr=3e-6, wd=0.0, total="10 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 6e-7, "paligemma2_28b": 1e-6}

# Published scores: {measure: {model: {res: score}}}. The test server's are from big_vision's
# README; of val, PaliGemma's are from arXiv:2412.03555, Table 15, PaliGemma 2's from its Table 13.
PUBLISHED = {
  "VQA accuracy (val)": {
    "paligemma_3b": {224: 59.0, 448: 74.6},
    "paligemma2_3b": {224: 59.6, 448: 75.2},
    "paligemma2_10b": {224: 64.0, 448: 76.6},
    "paligemma2_28b": {224: 64.7, 448: 76.2},
  },
  "VQA accuracy (test server)": {
    "paligemma_3b": {224: 55.47, 448: 73.15, 896: 76.48},
  },
}
METRICS = {"VQA accuracy (val)": "val/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = False
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("textvqa", "train+val" if final else "train")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Choice("answers"))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val, test = train.replace(split="val"), train.replace(split="test")
  minitrain = train.replace(split="train")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=32)
  target = dict(target="answers", answer_type="")
  c.evals = (
    evals.VqaV2Accuracy("val/acc", val, every="12.5%", **target, **answer),
    evals.VqaV2Accuracy("minitrain/acc", minitrain, every="12.5%", limit=5120, **target, **answer),
    evals.Perplexity("val/pplx", val, teach, every="5%", text_len=128),
    evals.ServerFile("test/server", test, format="textvqa", every="end", **answer),
  )
  return c
