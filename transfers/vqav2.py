"""VQAv2: open questions about everyday images, answered in a word or two.

  python -m paligemma_jax.prepare vqav2              # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/vqav2.py:res=448 --workdir runs/vqav2

Published: 83.19 at 224 px and 85.64 at 448 px on the test server (test-std), for PaliGemma trained
on train and validation (big_vision's README). This config holds out 10 240 questions of validation
as minival; final=True trains on them too. test/server and test-dev/server write the files for the
two phases of the server.

The 10 240 questions are our own sample; the reference does not publish its sample.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution; none were published for 896 px.
BEST = {
  224: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
  448: dict(lr=1e-5, wd=0.0, total="10 epochs"),
  896: dict(lr=1e-5, wd=0.0, total="10 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 6e-7}

# Published scores: {measure: {model: {res: score}}}. That of the test server is from big_vision's
# README; of minival, PaliGemma's is from arXiv:2412.03555, Table 15, PaliGemma 2's from its Table
# 13.
PUBLISHED = {
  "VQA accuracy (minival)": {
    "paligemma_3b": {224: 82.1, 448: 84.6},
    "paligemma2_3b": {224: 83.0, 448: 84.8},
    "paligemma2_10b": {224: 84.3, 448: 85.8},
    "paligemma2_28b": {224: 84.5, 448: 85.8},
  },
  "VQA accuracy (test server, test-std)": {
    "paligemma_3b": {224: 83.19, 448: 85.64},
  },
}
METRICS = {"VQA accuracy (minival)": "minival/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = False
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  splits = "train+validation" if final else "train+validation[:-10240]"
  train = sources.Tfds("vqav2", splits)
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Choice("answers"))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  minitrain, minival = train.replace(split="train"), train.replace(split="validation[-10240:]")
  test, test_dev = train.replace(split="test"), train.replace(split="test-dev")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=32)
  c.evals = (
    evals.VqaV2Accuracy("minival/acc", minival, every="25%", **answer),
    evals.VqaV2Accuracy("minitrain/acc", minitrain, every="25%", limit=5120, **answer),
    evals.Perplexity("minival/pplx", minival, teach, every="25%", text_len=128),
    evals.ServerFile("test-dev/server", test_dev, format="vqav2", every="end", **answer),
    evals.ServerFile("test/server", test, format="vqav2", every="end", **answer),
  )
  return c
