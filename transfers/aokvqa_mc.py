"""A-OKVQA, multiple choice: the questions of aokvqa_da, with four choices in the prompt.

  python -m paligemma_jax.prepare aokvqa             # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/aokvqa_mc.py:res=448 --workdir runs/aokvqa_mc

Published: 76.37 at 224 px and 76.90 at 448 px on the test server, for PaliGemma trained on train
and val (big_vision's README). This config trains on train and scores val; final=True adds val to
the training data. test/server writes the file for the test server.

The answer is the text of a choice. Only an exact match is correct. The server rejects other
answers, so in its file an answer that is no choice is replaced by the nearest one.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best settings of the published sweep at each resolution; none were published for 896 px.
BEST = {
  224: dict(lr=5e-6, wd=0.0, total="15 epochs"),
  448: dict(lr=5e-6, wd=0.0, total="15 epochs"),
  896: dict(lr=5e-6, wd=0.0, total="15 epochs"),
}
# PaliGemma 2 uses PaliGemma's settings except for the learning rate (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 3e-7, "paligemma2_28b": 1e-6}

# Published scores: {measure: {model: {res: score}}}. The test server's are from big_vision's
# README; of val, PaliGemma's are from arXiv:2412.03555, Table 15, PaliGemma 2's from its Table 13.
PUBLISHED = {
  "accuracy (val)": {
    "paligemma_3b": {224: 78.5, 448: 80.3},
    "paligemma2_3b": {224: 79.7, 448: 82.5},
    "paligemma2_10b": {224: 83.7, 448: 85.9},
    "paligemma2_28b": {224: 84.7, 448: 87.0},
  },
  "accuracy (test server)": {
    "paligemma_3b": {224: 76.37, 448: 76.9},
  },
}
METRICS = {"accuracy (val)": "val/acc/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = False
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("aokvqa", "train+val" if final else "train")
  ask = (
    pp.Decode(exif=False),
    pp.Resize(res),
    pp.Join("choices", glue=" \t ", out="options"),
    pp.Format("answer en  {question} choose from: {options}"),  # Two spaces, as published.
  )
  teach = (*ask, pp.Copy("answer", "suffix"))
  # Rows longer than the recipe's 128 tokens are dropped and counted; the reference cuts them and so
  # trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=128, overflow="drop", batch_size=128)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  val, test = train.replace(split="val"), train.replace(split="test")
  minitrain = train.replace(split="train[:5%]")
  answer = dict(pp=ask, batch_size=256, text_len=160, max_len=32)
  c.evals = (
    evals.VqaAccuracy("val/acc", val, target="answer", every="25%", **answer),
    evals.VqaAccuracy("minitrain/acc", minitrain, target="answer", every="25%", **answer),
    evals.Perplexity("val/pplx", val, teach, every="5%", text_len=192),
    evals.ServerFile(
      "test/server", test, format="aokvqa_mc", choices="choices", every="end", **answer
    ),
  )
  return c
