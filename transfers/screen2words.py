"""Screen2Words: sum up a screen of an Android app in a few words.

  python -m paligemma_jax.prepare screen2words       # says what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/screen2words.py --workdir runs/screen2words

Published: CIDEr 117.57 at 224 px, 119.59 at 448 px, on test, of PaliGemma trained on train and dev
(big_vision's README). This page does the same; final=False keeps dev aside to choose settings on.

antialias: False resizes without it in training and evaluation, as for the published scores; True is
kinder to images that shrink a lot, and its scores do not compare with those.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best setting of the published sweep at each resolution; 896 px was not better than 448.
BEST = {
  224: dict(lr=1e-5, wd=0.0, total="10 epochs", label_smoothing=0.2, dropout=0.3),
  448: dict(lr=1e-5, wd=0.0, total="10 epochs", label_smoothing=0.2, dropout=0.3),
  896: dict(lr=1e-5, wd=0.0, total="10 epochs", label_smoothing=0.2, dropout=0.3),
}
# PaliGemma 2 takes PaliGemma's setting but for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 6e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 1e-6}

# What the papers print: {measure: {model: {res: score}}}. PaliGemma's from big_vision's README,
# PaliGemma 2's from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "CIDEr (test)": {
    "paligemma_3b": {224: 117.57, 448: 119.59},
    "paligemma2_3b": {224: 113.3, 448: 114.0},
    "paligemma2_10b": {224: 117.8, 448: 119.1},
    "paligemma2_28b": {224: 122.8, 448: 123.4},
  },
}
METRICS = {"CIDEr (test)": "test/cap/cider"}  # Which of our metrics each measure is.


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

  train = sources.Tfds("screen2words", "train+dev" if final else "train")
  ask = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias), pp.Format("caption en"))
  teach = (*ask, pp.Choice("captions"))
  # What is too long for the recipe's 24 tokens is left out and counted; the reference cuts such
  # captions and then trains on texts without an end.
  c.train.update(source=train, pp=teach, text_len=24, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(
    lr=LR.get(model, best["lr"]), wd=best["wd"], label_smoothing=best["label_smoothing"]
  )
  presets.apply(c, tune)
  c.train.total = best["total"]
  c.model.dropout = best["dropout"]

  test, dev = train.replace(split="test"), train.replace(split="dev")
  minitrain = train.replace(split="train[:5%]")
  describe = dict(pp=ask, every="10%", batch_size=256, text_len=32, max_len=24)
  c.evals = (
    evals.CocoCaption("test/cap", test, **describe),
    evals.CocoCaption("dev/cap", dev, **describe),
    evals.CocoCaption("minitrain/cap", minitrain, **describe),
    evals.Perplexity("dev/pplx", dev, teach, every="5%", text_len=128),
  )
  return c
