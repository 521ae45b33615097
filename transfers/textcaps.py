"""TextCaps: captions of images that contain text.

  python -m paligemma_jax.prepare textcaps           # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/textcaps.py:res=448 --workdir runs/textcaps

Published: CIDEr x 100 of 127.48 at 224 px and 153.94 at 448 px on val, for PaliGemma trained on
train (big_vision's README). This config does the same; final=False holds out 2 % of train for
choosing settings.

Captions are trained in lower case.

crop: 'rs' resizes images, as for the published scores. 'ic' trains on random crops of at least half
of the image, 'rc' on random square crops after resizing to 8/7 of `res`.

antialias: False, the default, resizes without antialiasing in training and evaluation, as for the
published scores. True antialiases; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources
from paligemma_jax.core import errors

# The best settings of the published sweep at each resolution; none were published for 896 px.
BEST = {
  224: dict(lr=1e-5, wd=1e-6, total="5 epochs"),
  448: dict(lr=1e-5, wd=1e-6, total="5 epochs"),
  896: dict(lr=1e-5, wd=1e-6, total="5 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 1e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 3e-7}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13. CIDEr is multiplied by 100.
PUBLISHED = {
  "CIDEr (val)": {
    "paligemma_3b": {224: 127.48, 448: 153.94},
    "paligemma2_3b": {224: 127.5, 448: 152.1},
    "paligemma2_10b": {224: 137.9, 448: 157.7},
    "paligemma2_28b": {224: 139.9, 448: 153.6},
  },
}
METRICS = {"CIDEr (val)": "val/cap/cider"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  tune: str = "full_adam",
  final: bool = True,
  crop: str = "rs",
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("textcaps", "train" if final else "train[:98%]")
  ask = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias), pp.Format("caption en"))
  choose = (pp.Choice("captions"), pp.Lower("suffix"))
  crops = {
    "rs": (pp.Resize(res, antialias=antialias),),
    "ic": (pp.InceptionCrop(res, area=(50.0, 100.0), antialias=antialias),),
    "rc": (pp.ResizeSmall(res * 8 // 7, method="area"), pp.RandomCrop(res)),
  }
  teach = (
    pp.Decode(exif=False),
    *errors.pick(crops, crop, "crop"),
    pp.Format("caption en"),
    *choose,
  )
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on texts without an end.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val = train.replace(split="val")
  minitrain, minival = train.replace(split="train[:2%]"), train.replace(split="train[-2%:]")
  describe = dict(pp=ask, every="10%", batch_size=256, text_len=32, max_len=32, beam_size=3)
  c.evals = (
    evals.CocoCaption("val/cap", val, **describe),
    evals.CocoCaption("minitrain/cap", minitrain, **describe),
    evals.CocoCaption("minival/cap", minival, **describe),
    evals.Perplexity("val/pplx", val, (*ask, *choose), every="5%", text_len=256),
  )
  return c
