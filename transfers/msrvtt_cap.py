"""MSR-VTT captions: captions of video clips of 10 to 30 seconds.

  python -m paligemma_jax.prepare msrvtt_cap  # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/msrvtt_cap.py --workdir runs/msrvtt_cap

Published: CIDEr x 100 of 70.54 at 224 px on test, for PaliGemma (big_vision's README). A clip is 16
frames, every 9th from its start. This config trains on train+val and scores test; final=False holds
out val for choosing settings. Some videos are no longer available: the reference had 4 663, 316 and
2 094 left of 6 513, 497 and 2 990. Missing videos are left out.

antialias: False, the default, resizes without antialiasing in training and evaluation, as for the
published scores. True antialiases; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep, which was done at 224 px only.
_BEST_224 = dict(lr=1e-5, wd=0.0, total="20 epochs")
BEST = {224: _BEST_224, 448: _BEST_224, 896: _BEST_224}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 1e-5, "paligemma2_10b": 1e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "CIDEr (test)": {
    "paligemma_3b": {224: 70.54},
    "paligemma2_3b": {224: 68.5},
    "paligemma2_10b": {224: 72.1},
  },
}
METRICS = {"CIDEr (test)": "test/cap/cider"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  tune: str = "full_adam+freeze_vit",
  final: bool = True,
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("msrvtt_cap", "train+val" if final else "train")
  # The frames of a row become uint8[16, res, res, 3].
  ask = (
    pp.Copy("frames", "image"),
    pp.Decode(exif=False),
    pp.Resize(res, antialias=antialias),
    pp.Format("caption en"),
  )
  teach = (*ask, pp.Choice("captions", each_once=False))
  # Rows longer than the recipe's 32 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  test, val = train.replace(split="test"), train.replace(split="val")
  describe = dict(pp=ask, image_id="video_id", batch_size=128, text_len=128, max_len=32)
  c.evals = (
    evals.CocoCaption("test/cap", test, every="end", **describe),
    evals.CocoCaption("val/cap", val, every="25%", **describe),
    evals.Perplexity("val/pplx", val, teach, every="12.5%", batch_size=128, text_len=256),
  )
  return c
