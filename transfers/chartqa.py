"""ChartQA: questions about charts, written by people and by a model.

  python -m paligemma_jax.prepare chartqa            # says what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/chartqa.py:res=448 --workdir runs/chartqa

Published: 57.08 at 224 px, 71.36 at 448 px, the mean of the relaxed accuracies on the two tests
(big_vision's README), of PaliGemma trained on train and val of both; each for itself, human and
augmented, 40.0 and 74.2 at 224 px, 54.2 and 88.5 at 448 px (arXiv:2407.07726, Table 1). This page
does the same; final=False keeps val aside to choose settings on.

The question is the whole prompt, without a word for the task or language.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The best setting of the published sweep at each resolution; 896 px was not better than 448.
BEST = {
  224: dict(lr=1e-5, wd=1e-6, total="30 epochs"),
  448: dict(lr=1e-5, wd=1e-6, total="30 epochs"),
  896: dict(lr=1e-5, wd=1e-6, total="30 epochs"),
}
# PaliGemma 2 takes PaliGemma's setting but for the learning rate: the best of the sum of both kinds
# of questions (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 3e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 3e-7}

# What is mixed, by how many questions of train there are (arXiv:2203.10244).
PARTS = {"human": 7_398, "augmented": 20_901}

# What the papers print: {measure: {model: {res: score}}}. The mean is from big_vision's README,
# PaliGemma's others from arXiv:2407.07726, Table 1, PaliGemma 2's from arXiv:2412.03555, Table 13.
PUBLISHED = {
  "relaxed accuracy (test, mean of both)": {
    "paligemma_3b": {224: 57.08, 448: 71.36},
  },
  "relaxed accuracy (test, human)": {
    "paligemma_3b": {224: 40.0, 448: 54.2},
    "paligemma2_3b": {224: 42.0, 448: 54.0},
    "paligemma2_10b": {224: 48.4, 448: 66.4},
    "paligemma2_28b": {224: 46.8, 448: 61.3},
  },
  "relaxed accuracy (test, augmented)": {
    "paligemma_3b": {224: 74.2, 448: 88.5},
    "paligemma2_3b": {224: 74.4, 448: 89.2},
    "paligemma2_10b": {224: 74.2, 448: 90.1},
    "paligemma2_28b": {224: 68.9, 448: 85.1},
  },
}
METRICS = {  # Which of our metrics each measure is.
  "relaxed accuracy (test, mean of both)": "test/acc/relaxed_acc_avg",
  "relaxed accuracy (test, human)": "test/acc/relaxed_acc/human",
  "relaxed accuracy (test, augmented)": "test/acc/relaxed_acc/augmented",
}


@pj.sweepable
def get_config(
  res: int = 224, model: str = "paligemma_3b", tune: str = "full_adam", final: bool = True
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, dropout=0.1, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  parts = {
    name: sources.Tfds(f"chartqa/{name}", "train+val" if final else "train") for name in PARTS
  }
  train = sources.Mixture(
    tuple(sources.Part(parts[name], weight=weight) for name, weight in PARTS.items())
  )
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Copy("question", "prefix"))
  teach = (*ask, pp.Copy("answer", "suffix"))
  # What is too long for the recipe's 48 tokens is left out and counted; the reference cuts such
  # texts and then trains on answers without an end, or on none.
  c.train.update(source=train, pp=teach, text_len=48, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"], label_smoothing=0.2)
  presets.apply(c, tune)
  c.train.total = best["total"]

  answer = dict(pp=ask, lower=True, batch_size=256, text_len=128, max_len=48, every="10%")

  def both(split: str):
    """The rows of both parts, each with the name of its own."""
    return sources.Mixture(
      tuple(
        sources.Part(source.replace(split=split), (pp.Format(name, out="part"),))
        for name, source in parts.items()
      )
    )

  c.evals = (
    evals.ChartQa("test/acc", both("test"), part="part", **answer),
    evals.ChartQa("val/acc", both("val"), part="part", **answer),
    evals.ChartQa("minitrain/acc", both("train[:5%]"), part="part", **answer),
    *(
      evals.Perplexity(
        f"{name}/val/pplx", source.replace(split="val"), teach, every="5%", text_len=128
      )
      for name, source in parts.items()
    ),
  )
  return c
