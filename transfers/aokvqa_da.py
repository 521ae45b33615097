"""A-OKVQA, direct answers: questions that need knowledge from outside, answered freely.

  python -m paligemma_jax.prepare aokvqa             # says what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/aokvqa_da.py:res=448 --workdir runs/aokvqa_da

Published: 61.85 at 224 px, 63.22 at 448 px, by the test server, of PaliGemma trained on train and
val (big_vision's README). This page trains on train and scores val; final=True adds val to the
training rows, and test/server writes the file for the server.

As in the reference, every answer of a person counts a third and no row is left out, not even those
that the benchmark marks as difficult to answer freely (column difficult_direct_answer).
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best setting of the published sweep at each resolution; for 896 px none was published.
BEST = {
  224: dict(lr=5e-6, wd=0.0, total="10 epochs"),
  448: dict(lr=5e-6, wd=0.0, total="10 epochs"),
  896: dict(lr=5e-6, wd=0.0, total="10 epochs"),
}
# PaliGemma 2 takes PaliGemma's setting but for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 6e-7}

# What the papers print: {measure: {model: {res: score}}}. Scores of the test server are those of
# big_vision's README; of val, PaliGemma's are from arXiv:2412.03555, Table 15, PaliGemma 2's from
# its Table 13.
PUBLISHED = {
  "accuracy (val)": {
    "paligemma_3b": {224: 61.1, 448: 65.7},
    "paligemma2_3b": {224: 64.2, 448: 67.9},
    "paligemma2_10b": {224: 68.9, 448: 70.8},
    "paligemma2_28b": {224: 70.2, 448: 71.2},
  },
  "accuracy (test server)": {
    "paligemma_3b": {224: 61.85, 448: 63.22},
  },
}
METRICS = {"accuracy (val)": "val/acc/acc"}  # Which of our metrics each measure is.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = False
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("aokvqa", "train+val" if final else "train")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("answer en {question}"))
  teach = (*ask, pp.Choice("direct_answers"))
  # What is too long for the recipe's 32 tokens is left out and counted; the reference cuts such
  # texts and then trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=32, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val, test = train.replace(split="val"), train.replace(split="test")
  minitrain = train.replace(split="train[:5%]")
  answer = dict(pp=ask, batch_size=256, text_len=128, max_len=32)
  c.evals = (
    evals.VqaAccuracy("val/acc", val, target="direct_answers", every="25%", **answer),
    evals.VqaAccuracy("minitrain/acc", minitrain, target="direct_answers", every="25%", **answer),
    evals.Perplexity("val/pplx", val, teach, every="5%", text_len=128),
    evals.ServerFile("test/server", test, format="aokvqa_da", every="end", **answer),
  )
  return c
