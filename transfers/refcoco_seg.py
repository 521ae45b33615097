"""RefCOCO, RefCOCO+, RefCOCOg: segment the object that a phrase refers to.

  python -m paligemma_jax.prepare refcoco_seg        # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/refcoco_seg.py:res=448 --workdir runs/refcoco

Published: mean IoU of 73.40 at 224 px, 75.57 at 448 px and 76.94 at 896 px on RefCOCO's val (68.32,
69.76, 72.18 on RefCOCO+'s, 67.65, 70.17, 72.22 on RefCOCOg's), for PaliGemma trained on the three
train sets together (big_vision's README). This config does the same.

The prompt is the phrase alone. The answer is a box and sixteen codes of the published mask codec:
download vae-oid.npz (see big_vision's README) and pass its path as `codec`. codec="" is the small
embedded codec, whose codes the published models do not know.

antialias: False, the default, resizes without antialiasing in training and evaluation, as for the
published scores. True antialiases; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution.
BEST = {
  224: dict(lr=3e-5, wd=0.0, total="100 epochs", dropout=0.1, batch_size=256),
  448: dict(lr=1e-5, wd=0.0, total="100 epochs", dropout=0.0, batch_size=256),
  896: dict(lr=1e-5, wd=0.0, total="100 epochs", dropout=0.0, batch_size=64),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 1e-5, "paligemma2_10b": 3e-6, "paligemma2_28b": 1e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's on val are from big_vision's
# README, its others from arXiv:2407.07726, Table 1; PaliGemma 2's are from arXiv:2412.03555, Table
# 13.
PUBLISHED = {
  "mIoU (RefCOCO val)": {
    "paligemma_3b": {224: 73.40, 448: 75.57, 896: 76.94},
    "paligemma2_3b": {224: 73.4, 448: 76.3},
    "paligemma2_10b": {224: 75.9, 448: 78.2},
    "paligemma2_28b": {224: 75.0, 448: 77.3},
  },
  "mIoU (RefCOCO testA)": {
    "paligemma_3b": {224: 75.7, 448: 77.9, 896: 78.7},
    "paligemma2_3b": {224: 75.7, 448: 78.6},
    "paligemma2_10b": {224: 77.2, 448: 79.7},
    "paligemma2_28b": {224: 76.8, 448: 79.3},
  },
  "mIoU (RefCOCO testB)": {
    "paligemma_3b": {224: 70.7, 448: 72.4, 896: 73.9},
    "paligemma2_3b": {224: 71.0, 448: 73.5},
    "paligemma2_10b": {224: 74.2, 448: 76.2},
    "paligemma2_28b": {224: 73.9, 448: 74.8},
  },
  "mIoU (RefCOCO+ val)": {
    "paligemma_3b": {224: 68.32, 448: 69.76, 896: 72.18},
    "paligemma2_3b": {224: 68.6, 448: 72.1},
    "paligemma2_10b": {224: 72.0, 448: 74.4},
    "paligemma2_28b": {224: 70.3, 448: 72.8},
  },
  "mIoU (RefCOCO+ testA)": {
    "paligemma_3b": {224: 71.9, 448: 74.2, 896: 76.1},
    "paligemma2_3b": {224: 72.7, 448: 76.1},
    "paligemma2_10b": {224: 74.7, 448: 77.7},
    "paligemma2_28b": {224: 73.6, 448: 76.6},
  },
  "mIoU (RefCOCO+ testB)": {
    "paligemma_3b": {224: 64.5, 448: 64.5, 896: 66.9},
    "paligemma2_3b": {224: 64.2, 448: 67.0},
    "paligemma2_10b": {224: 68.4, 448: 71.1},
    "paligemma2_28b": {224: 67.1, 448: 68.6},
  },
  "mIoU (RefCOCOg val)": {
    "paligemma_3b": {224: 67.65, 448: 70.17, 896: 72.22},
    "paligemma2_3b": {224: 68.3, 448: 72.3},
    "paligemma2_10b": {224: 71.4, 448: 74.4},
    "paligemma2_28b": {224: 70.5, 448: 73.0},
  },
  "mIoU (RefCOCOg test)": {
    "paligemma_3b": {224: 68.2, 448: 71.0, 896: 72.7},
    "paligemma2_3b": {224: 69.0, 448: 72.7},
    "paligemma2_10b": {224: 71.9, 448: 74.8},
    "paligemma2_28b": {224: 70.7, 448: 73.7},
  },
}
METRICS = {  # Our metric for each published measure.
  "mIoU (RefCOCO val)": "refcoco/val/miou",
  "mIoU (RefCOCO testA)": "refcoco/testA/miou",
  "mIoU (RefCOCO testB)": "refcoco/testB/miou",
  "mIoU (RefCOCO+ val)": "refcoco_plus/val/miou",
  "mIoU (RefCOCO+ testA)": "refcoco_plus/testA/miou",
  "mIoU (RefCOCO+ testB)": "refcoco_plus/testB/miou",
  "mIoU (RefCOCOg val)": "refcocog/val/miou",
  "mIoU (RefCOCOg test)": "refcocog/test/miou",
}


@pj.sweepable
def get_config(
  res: int = 448,
  model: str = "paligemma_3b",
  tune: str = "full_adam",
  codec: str = "vae-oid.npz",
  antialias: bool = False,
):
  c = pj.default_config()
  best = BEST[res]
  c.model.update(variant=model, res=res, dropout=best["dropout"], attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("refcoco_seg/combined", "train")
  look = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias))
  teach = (
    *look,
    # Each object of an image once before any repeats, with one of its phrases.
    pp.Choice(("masks", "boxes", "sentences"), ("mask", "box", "refs")),
    pp.Split("refs"),
    pp.Choice("refs", "prefix", each_once=False),
    pp.MaskToText(codec, bins=1023),
  )
  # Rows longer than the recipe's 48 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  batch_size = best["batch_size"]
  c.train.update(source=train, pp=teach, text_len=48, overflow="drop", batch_size=batch_size)

  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"], label_smoothing=0.3)
  presets.apply(c, tune)
  c.train.total = best["total"]

  def score(name: str, split: str, every: str):
    return evals.Segmentation(
      f"{name}/{split}",
      sources.Tfds(f"refcoco_seg/{name}", split),
      (*look, pp.Format("{sentence}")),
      codec=codec,
      bins=1023,
      every=every,
      batch_size=256,
      text_len=64,
      max_len=20,  # Four loc and sixteen seg tokens; nothing else is looked at.
    )

  c.evals = (
    score("refcoco", "val", "20%"),
    score("refcoco", "testA", "end"),
    score("refcoco", "testB", "end"),
    score("refcoco_plus", "val", "end"),
    score("refcoco_plus", "testA", "end"),
    score("refcoco_plus", "testB", "end"),
    score("refcocog", "val", "end"),
    score("refcocog", "test", "end"),
    evals.Perplexity("minitrain/pplx", train, teach, every="5%", text_len=64, limit=1024),
  )
  return c
