"""ActivityNet-QA: human-written questions about long videos.

  python -m paligemma_jax.prepare activitynet_qa  # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/activitynet_qa.py --workdir runs/activitynet_qa

Published: accuracy of 50.78 at 224 px on test, for PaliGemma (big_vision's README). A video is 16
frames, every 70th from its start. This config trains on train+val and scores test; final=False
holds out val for choosing settings. Some videos are no longer available: the reference had 27 610,
15 760 and 6 900 questions left of 32 000, 18 000 and 8 000. Missing videos are left out.

antialias: False, the default, resizes without antialiasing in training and evaluation, as for the
published scores. True antialiases; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep, which was done at 224 px only.
_BEST_224 = dict(lr=1e-5, wd=1e-6, total="1 epoch")
BEST = {224: _BEST_224, 448: _BEST_224, 896: _BEST_224}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 6e-6, "paligemma2_10b": 6e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "accuracy (test)": {
    "paligemma_3b": {224: 50.78},
    "paligemma2_3b": {224: 51.3},
    "paligemma2_10b": {224: 53.2},
  },
}
METRICS = {"accuracy (test)": "test/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  tune: str = "full_adam",
  final: bool = True,
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("activitynet_qa", "train+val" if final else "train")
  # The frames of a row become uint8[16, res, res, 3].
  ask = (
    pp.Copy("frames", "image"),
    pp.Decode(exif=False),
    pp.Resize(res, antialias=antialias),
    pp.Format("answer en {question}"),
  )
  teach = (*ask, pp.Copy("answer", "suffix"))
  # Rows longer than the recipe's 64 tokens are dropped and counted; there are none, as the longest
  # of train's 32 000 rows has 38.
  c.train.update(source=train, pp=teach, text_len=64, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  test, val = train.replace(split="test"), train.replace(split="val")
  answer = dict(pp=ask, target="answer", batch_size=128, text_len=128, max_len=64)
  c.evals = (
    evals.VqaAccuracy("test/acc", test, every="end", **answer),
    evals.VqaAccuracy("val/acc", val, every="25%", **answer),
    evals.Perplexity("val/pplx", val, teach, every="12.5%", batch_size=128, text_len=256),
  )
  return c
