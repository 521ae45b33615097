"""COCO detection: all objects of 80 classes, with boxes and confidences.

  python -m paligemma_jax.prepare coco_detection     # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/coco_detection.py:res=448 --workdir runs/coco

Published: mAP of 28.7 at 224 px, 37.0 at 448 px and 41.1 at 896 px for PaliGemma, 30.4, 38.5, 42.3
for PaliGemma 2 3B, 30.3, 39.2, 43.6 for PaliGemma 2 10B (arXiv:2412.03555, Table 11). This config
follows the paper's recipe: objects in random order, padded with noise boxes whose coordinates have
no loss, 50 epochs. In evaluation the noise label and the end token are banned, and a box's
confidence is the likelihood of its class. The paper does not specify the learning rate, the batch
size, the number of boxes (`num_boxes`, in training and in answers) and the kinds of noise; these
are our choice.

val/map also gives the average precision of each class, and writes predictions/val/map-<step>.json,
a results file for COCO's tools and server.

For data of your own, replace Tfds by another source: docs/detection.md.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources
from paligemma_jax.pp import boxes

BEST = {
  224: dict(lr=1e-5, wd=0.0, total="50 epochs"),
  448: dict(lr=1e-5, wd=0.0, total="50 epochs"),
  896: dict(lr=1e-5, wd=0.0, total="50 epochs"),
}
LR = {"paligemma2_3b": 1e-5, "paligemma2_10b": 3e-6, "paligemma2_28b": 3e-6}

# Published scores: {measure: {model: {res: score}}}; arXiv:2412.03555, Table 11.
PUBLISHED = {
  "mAP (val)": {
    "paligemma_3b": {224: 28.7, 448: 37.0, 896: 41.1},
    "paligemma2_3b": {224: 30.4, 448: 38.5, 896: 42.3},
    "paligemma2_10b": {224: 30.3, 448: 39.2, 896: 43.6},
  },
}
METRICS = {"mAP (val)": "val/map/map"}  # Our metric for each published measure.

# COCO's 80 classes by their ids, which have gaps, for the results file of its server.
CLASSES = {
    1: "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,"
       " fire hydrant",
    13: "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,"
        " giraffe",
    27: "backpack, umbrella",
    31: "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,"
        " baseball glove, skateboard, surfboard, tennis racket, bottle",
    46: "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,"
        " carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed",
    67: "dining table",
    70: "toilet",
    72: "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,"
        " refrigerator",
    84: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
}  # fmt: skip
CATEGORIES = tuple(
  (name, i)
  for first, names in CLASSES.items()
  for i, name in enumerate(names.split(", "), start=first)
)

BINS = 1024  # Of loc tokens, in training and in the metric; not published.
_TOKENS = 8  # Of a box: four loc tokens, one to three of the class, one or two separators.


@pj.sweepable
def get_config(
  res: int = 448, model: str = "paligemma_3b", tune: str = "full_adam", num_boxes: int = 60
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("coco_detection", "train")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("detect all classes"))
  teach = (*ask, pp.NoiseBoxes(bins=BINS, total=num_boxes, crowd="crowd"))
  # A cut text loses noise boxes, or in very crowded images objects, different ones in each epoch.
  text_len = num_boxes * _TOKENS + 16
  c.train.update(source=train, pp=teach, text_len=text_len, overflow="truncate", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val = train.replace(split="val")
  c.evals = (
    evals.CocoDetection(
      "val/map",
      val,
      ask,
      crowd="crowd",
      areas="areas",
      bins=BINS,
      every="10%",
      by_class=True,
      image_id="image_id",
      categories=CATEGORIES,
      banned=(boxes.NOISE, "<eos>"),
      batch_size=256,
      text_len=16,
      max_len=text_len - 16,
    ),
    evals.Perplexity("val/pplx", val, teach, every="5%", text_len=text_len, limit=1024),
  )
  return c
