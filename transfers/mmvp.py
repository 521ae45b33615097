"""MMVP: questions about pairs of images that CLIP confuses. Evaluates a transfer to VQAv2.

  python -m paligemma_jax.prepare mmvp               # prints what to download; --raw DIR builds it
  python -m paligemma_jax.evaluate --config transfers/mmvp.py:res=448 --ckpt runs/vqav2

Published: 47.33 at 224 px and 45.33 at 448 px, the share of pairs with two correct answers, for
PaliGemma transferred to VQAv2 (big_vision's README). There is no training; --ckpt names the
weights. The authors' prompt and their comparison of answers are not published. This config uses
VQAv2's prompt. An answer is correct if it equals the text of the right option (or its letter) after
VQAv2's normalization.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources

# Published scores: {measure: {model: {res: score}}}; from big_vision's README.
PUBLISHED = {
  "paired accuracy": {"paligemma_3b": {224: 47.33, 448: 45.33}},
}
METRICS = {"paired accuracy": "test/mmvp/acc"}  # Our metric for each published measure.


@pj.sweepable
def get_config(res: int = 224, model: str = "paligemma_3b", prompt: str = "answer en {question}"):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)

  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format(prompt))
  answer = dict(pp=ask, batch_size=128, text_len=128, max_len=32)
  c.evals = (evals.Mmvp("test/mmvp", sources.Tfds("mmvp", "test"), target="answers", **answer),)
  return c
