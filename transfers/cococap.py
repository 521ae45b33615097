"""COCO captions; and NoCaps, captions of images with classes that COCO's captions do not name.

  python -m paligemma_jax.prepare cococap            # prints what to download; --raw DIR builds it
  python -m paligemma_jax.prepare nocaps
  python -m paligemma_jax.train --config transfers/cococap.py:res=448 --workdir runs/cococap

Published: CIDEr x 100 of 141.92 at 224 px and 144.60 at 448 px on val, for PaliGemma trained on
train and restval; NoCaps (val) 121.72 and 123.58 (big_vision's README). This config does the same;
final=False holds out 2 % of train for choosing settings.

NoCaps' leaderboard also reports in-domain, near-domain and out-domain images:
nocaps/cap/cider/in-domain and so on. Each is scored separately, so that CIDEr's word weights are
those of its own images. It is not published whether the leaderboard's server does the same.

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
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 6e-7, "paligemma2_28b": 6e-7}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13. CIDEr is multiplied by 100.
PUBLISHED = {
  "CIDEr (val)": {
    "paligemma_3b": {224: 141.92, 448: 144.60},
    "paligemma2_3b": {224: 141.3, 448: 143.4},
    "paligemma2_10b": {224: 143.7, 448: 145.0},
    "paligemma2_28b": {224: 144.0, 448: 145.2},
  },
  "NoCaps CIDEr (val)": {
    "paligemma_3b": {224: 121.72, 448: 123.58},
    "paligemma2_3b": {224: 123.1, 448: 123.5},
    "paligemma2_10b": {224: 126.3, 448: 126.9},
    "paligemma2_28b": {224: 127.1, 448: 127.0},
  },
}
METRICS = {"CIDEr (val)": "val/cap/cider", "NoCaps CIDEr (val)": "nocaps/cap/cider"}


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

  train = sources.Tfds("cococap", "train+restval" if final else "train[:98%]+restval")
  ask = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias), pp.Format("caption en"))
  crops = {
    "rs": (pp.Resize(res, antialias=antialias),),
    "ic": (pp.InceptionCrop(res, area=(50.0, 100.0), antialias=antialias),),
    "rc": (pp.ResizeSmall(res * 8 // 7, method="area"), pp.RandomCrop(res)),
  }
  teach = (
    pp.Decode(exif=False),
    *errors.pick(crops, crop, "crop"),
    pp.Format("caption en"),
    pp.Choice("captions"),
  )
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on texts without an end.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val, nocaps = train.replace(split="val"), sources.Tfds("nocaps", "val")
  minitrain, minival = train.replace(split="train[:2%]"), train.replace(split="train[-2%:]")
  describe = dict(pp=ask, every="10%", batch_size=256, text_len=32, max_len=32, beam_size=2)
  c.evals = (
    evals.CocoCaption("val/cap", val, **describe),
    evals.CocoCaption("nocaps/cap", nocaps, parts="domain", **describe),
    evals.CocoCaption("minitrain/cap", minitrain, **describe),
    evals.CocoCaption("minival/cap", minival, **describe),
    evals.Perplexity("val/pplx", val, (*ask, pp.Choice("captions")), every="5%", text_len=256),
  )
  return c
