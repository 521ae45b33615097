"""DOCCI: detailed descriptions of photographs, of a hundred words and more.

  python -m paligemma_jax.prepare docci              # prints what to download; --raw DIR builds it
  python -m paligemma_jax.train --config transfers/docci.py:res=448,model=paligemma2_3b

Published: 28.4 % of the sentences of PaliGemma 2 3B and 20.3 % of 10B at 448 px are not entailed by
the image, according to human raters (arXiv:2412.03555); lower is better, and no program measures
it. This config reports the perplexity of the reference descriptions, which the paper used to choose
its settings, and CIDEr, which is not meaningful for texts of this length.

No settings are published. These are our choice: the first paper's simple recipe, with the learning
rates that are best for most tasks of the second paper.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

_BEST = dict(lr=1e-5, wd=1e-6, total="10 epochs")
BEST = {224: _BEST, 448: _BEST, 896: _BEST}
# The learning rates with the lowest loss over all tasks (arXiv:2412.03555, Table 14).
LR = {"paligemma2_3b": 6e-6, "paligemma2_10b": 1e-6, "paligemma2_28b": 3e-6}

# Published scores: {measure: {model: {res: score}}}; arXiv:2412.03555, long captions.
PUBLISHED = {
  "sentences not entailed, % of them (people's judgement; lower is better)": {
    "paligemma2_3b": {448: 28.4},
    "paligemma2_10b": {448: 20.3},
  },
}
METRICS = {}  # None of our metrics measures this.


@pj.sweepable
def get_config(
  res: int = 448, model: str = "paligemma2_3b", tune: str = "full_adam", final: bool = True
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Tfds("docci", "train" if final else "train[:-5%]")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("describe en"))
  teach = (*ask, pp.Copy("caption", "suffix"))
  # A description has 136 words on average; the few longer than 512 tokens are dropped.
  c.train.update(source=train, pp=teach, text_len=512, overflow="drop", batch_size=64)

  best = BEST[res]
  c.optim.update(lr=LR.get(model, best["lr"]), wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  test, minival = train.replace(split="test"), train.replace(split="train[-5%:]")
  describe = dict(pp=ask, target="caption", batch_size=64, text_len=32, max_len=512)
  c.evals = (
    evals.CocoCaption("test/cap", test, metrics=("cider", "rouge"), every="end", **describe),
    evals.Perplexity("test/pplx", test, teach, every="10%", text_len=768),
    evals.Perplexity("minival/pplx", minival, teach, every="10%", text_len=768),
  )
  return c
