"""ScienceQA: multiple choice questions from school lessons; those with an image.

  python -m paligemma_jax.prepare science_qa         # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/science_qa.py --workdir runs/science_qa

Published: accuracy of 95.39 at 224 px and 95.93 at 448 px on test, for PaliGemma trained on train
and val, without chain of thought (big_vision's README). This config does the same; final=False
holds out val for choosing settings.

In training the choices are in a new random order each time; in evaluation they keep the order of
the dataset.

antialias: False, the default, resizes without antialiasing in training and evaluation, as for the
published scores. True antialiases; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution; none were published for 896 px.
BEST = {
  224: dict(lr=1e-5, wd=0.0, total="20 epochs", freeze_vit=True),
  448: dict(lr=1e-5, wd=0.0, total="20 epochs", freeze_vit=True),
  896: dict(lr=1e-5, wd=0.0, total="20 epochs", freeze_vit=True),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 6e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 1e-6}

# Published scores: {measure: {model: {res: score}}}. PaliGemma's are from big_vision's README,
# PaliGemma 2's are from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "accuracy (test, questions with an image)": {
    "paligemma_3b": {224: 95.39, 448: 95.93},
    "paligemma2_3b": {224: 96.1, 448: 96.2},
    "paligemma2_10b": {224: 98.2, 448: 98.5},
    "paligemma2_28b": {224: 98.2, 448: 98.6},
  },
}
METRICS = {"accuracy (test, questions with an image)": "test/acc/acc"}

PROMPT = "Question: {question}\nContext: {hint}\nOptions: {indexed_choices}\nAnswer:"


@pj.sweepable
def get_config(
  res: int = 448,
  model: str = "paligemma_3b",
  tune: str = "full_adam",
  final: bool = True,
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("science_qa", "train+val" if final else "train")
  image = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias))
  ask = (*image, pp.LetterChoices("given"), pp.Format(PROMPT))
  say = pp.Format("The answer is {indexed_answer}.", out="suffix")
  teach = (*image, pp.LetterChoices("shuffled"), pp.Format(PROMPT), say)
  # Rows longer than the recipe's 512 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=512, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  if best["freeze_vit"] and tune == "full_adam":
    presets.freeze_vit(c)
  c.train.total = best["total"]

  test, val = train.replace(split="test"), train.replace(split="val")
  minitrain = train.replace(split="train[:5%]")
  answer = dict(
    pp=ask, target="indexed_answer", batch_size=256, text_len=1024, max_len=16, every="12.5%"
  )
  c.evals = (
    evals.ScienceQa("test/acc", test, **answer),
    evals.ScienceQa("val/acc", val, **answer),
    evals.ScienceQa("minitrain/acc", minitrain, **answer),
    evals.Perplexity("val/pplx", val, (*ask, say), every="5%", text_len=1024),
  )
  return c
