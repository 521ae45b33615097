"""VizWiz-VQA: questions that blind people asked about their photographs.

  python -m paligemma_jax.prepare vizwizvqa          # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/vizwizvqa.py:res=448 --workdir runs/vizwizvqa

Published: accuracy of 73.7 at 224 px and 75.52 at 448 px on the test server (test-std), for
PaliGemma trained on train and val (big_vision's README). This config trains on train and scores
val; final=True adds val to the training data. test/server writes the file for the test server.

Images are used as stored, as in the reference.

antialias: False, the default, resizes without antialiasing in evaluation, as for the published
scores, and with it in training. True antialiases in both; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution; none were published for 896 px.
BEST = {
  224: dict(lr=1e-5, wd=0.0, total="10 epochs"),
  448: dict(lr=1e-5, wd=0.0, total="10 epochs"),
  896: dict(lr=1e-5, wd=0.0, total="10 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 1e-5, "paligemma2_10b": 3e-6, "paligemma2_28b": 3e-6}

# Published scores: {measure: {model: {res: score}}}. The test server's are from big_vision's
# README; of val, PaliGemma's is from arXiv:2407.07726, Table 4 (arXiv:2412.03555 gives the server's
# scores as those of val), PaliGemma 2's are from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "accuracy (val)": {
    "paligemma_3b": {224: 76.4},
    "paligemma2_3b": {224: 76.4, 448: 77.5},
    "paligemma2_10b": {224: 78.1, 448: 78.6},
    "paligemma2_28b": {224: 78.7, 448: 78.9},
  },
  "accuracy (test server)": {
    "paligemma_3b": {224: 73.7, 448: 75.52},
  },
}
METRICS = {"accuracy (val)": "val/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  tune: str = "full_adam",
  final: bool = False,
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("vizwizvqa", "train+val" if final else "train")
  prompt = pp.Format("answer en {question}")
  ask = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias), prompt)
  teach = (pp.Decode(exif=False), pp.Resize(res), prompt, pp.Choice("answers"))
  # Rows longer than the recipe's 48 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=48, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val, test = train.replace(split="val"), train.replace(split="test")
  minitrain = train.replace(split="train")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=48)
  c.evals = (
    evals.VqaAccuracy("val/acc", val, target="answers", every="10%", **answer),
    evals.VqaAccuracy(
      "minitrain/acc", minitrain, target="answers", every="12.5%", limit=5120, **answer
    ),
    evals.Perplexity("val/pplx", val, teach, every="12.5%", text_len=128),
    evals.ServerFile("test/server", test, format="vizwiz", every="end", **answer),
  )
  return c
