"""InfographicVQA: questions about infographics.

  python -m paligemma_jax.prepare infovqa            # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/infovqa.py:res=896 --workdir runs/infovqa

Published: ANLS of 28.46 at 224 px, 40.47 at 448 px and 47.75 at 896 px on the test server, for
PaliGemma trained on train and val (big_vision's README). This config trains on train and scores
val; final=True adds val to the training data. test/server writes the file for the test server.

On val the order of an answer's parts does not count: as in the reference, the dataset has all
orders of answers with a comma and a space.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution, with their batch sizes.
BEST = {
  224: dict(lr=1e-5, wd=1e-6, total="3 epochs", batch_size=256),
  448: dict(lr=1e-5, wd=1e-6, total="3 epochs", batch_size=128),
  896: dict(lr=3e-6, wd=3e-7, total="3 epochs", batch_size=32),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 6e-7, "paligemma2_28b": 3e-7}

# Published scores: {measure: {model: {res: score}}}. The test server's are from big_vision's
# README; of val, PaliGemma's are from arXiv:2412.03555, Table 15, PaliGemma 2's from its Table 13.
PUBLISHED = {
  "ANLS (val)": {
    "paligemma_3b": {224: 25.5, 448: 37.0},
    "paligemma2_3b": {224: 25.2, 448: 37.5},
    "paligemma2_10b": {224: 33.6, 448: 47.8},
    "paligemma2_28b": {224: 36.4, 448: 46.7},
  },
  "ANLS (test server)": {
    "paligemma_3b": {224: 28.46, 448: 40.47, 896: 47.75},
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

  train = sources.Tfds("infovqa", "train+val" if final else "train", version="1.1.0")
  # Infographics of val have up to 6250 x 9375 pixels, more than Decode's default limit.
  decode = pp.Decode(exif=False, max_pixels=200_000_000)
  ask = (decode, pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Choice("answers"), pp.Lower())
  # Rows longer than the recipe's 48 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=48, overflow="drop")

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"], label_smoothing=0.4)
  presets.apply(c, tune)
  c.train.update(total=best["total"], batch_size=best["batch_size"])

  val, test = train.replace(split="val"), train.replace(split="test")
  minitrain = train.replace(split="train[:5%]")
  answer = dict(pp=ask, batch_size=best["batch_size"], text_len=128, max_len=48)
  target = dict(target="answers", lower=True, every="10%")
  c.evals = (
    evals.VqaAccuracy("val/acc", val, **target, **answer),
    evals.VqaAccuracy("minitrain/acc", minitrain, **target, **answer),
    evals.Perplexity("val/pplx", val, teach, every="10%", text_len=128),
    evals.ServerFile("test/server", test, format="infovqa", every="end", **answer),
  )
  return c
