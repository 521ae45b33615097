"""AI2D: multiple choice questions about diagrams from school books.

  python -m paligemma_jax.prepare ai2d               # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/ai2d.py:res=448 --workdir runs/ai2d

Published: accuracy of 72.12 at 224 px and 73.28 at 448 px on test, for PaliGemma trained on train
(big_vision's README). This config does the same; final=False holds out 1024 rows of train for
choosing settings.

The answer is the text of a choice. Only an exact match is correct.

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
  224: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
  448: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
  896: dict(lr=1e-5, wd=1e-6, total="10 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 6e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 3e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "accuracy (test)": {
    "paligemma_3b": {224: 72.12, 448: 73.28},
    "paligemma2_3b": {224: 74.7, 448: 76.0},
    "paligemma2_10b": {224: 83.1, 448: 84.4},
    "paligemma2_28b": {224: 83.2, 448: 84.6},
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

  train = sources.Tfds("ai2d", "train" if final else "train[:-1024]")
  prompt = (
    pp.Join("choices", glue=" \t ", out="options"),
    pp.Format("answer en  {question} choose from: {options}"),  # Two spaces, as published.
  )
  ask = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias), *prompt)
  teach = (pp.Decode(exif=False), pp.Resize(res), *prompt, pp.Copy("answer", "suffix"))
  # Rows longer than the recipe's 128 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=128, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  test = train.replace(split="test")
  minival, minitrain = (train.replace(split=f"train[{part}]") for part in ("-1024:", ":1024"))
  answer = dict(pp=ask, target="answer", batch_size=256, text_len=256, max_len=64, every="12.5%")
  c.evals = (
    evals.VqaAccuracy("test/acc", test, **answer),
    evals.VqaAccuracy("minival/acc", minival, **answer),
    evals.VqaAccuracy("minitrain/acc", minitrain, **answer),
    evals.Perplexity("test/pplx", test, teach, every="12.5%", text_len=320),
    evals.Perplexity("minival/pplx", minival, teach, every="12.5%", text_len=320),
  )
  return c
