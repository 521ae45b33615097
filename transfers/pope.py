"""POPE: does the model see objects that are not there? Evaluates a transfer to VQAv2.

  python -m paligemma_jax.prepare pope               # says what to download; --raw DIR builds it
  python -m paligemma_jax.evaluate --config transfers/pope.py:res=448 --ckpt runs/vqav2

Published: accuracy 87.80 (random), 85.87 (popular), 84.27 (adversarial) at 224 px; 88.23, 86.77,
85.90 at 448 px, of PaliGemma transferred to VQAv2 (big_vision's README). There is nothing to train
on; the weights are those that --ckpt names. An answer counts if it is a bare yes or no, as in the
reference; the script of POPE's authors takes any sentence without a no for a yes, which
wording=sentence does.

prompt: how the model was asked in training. The open code asks '{question}' if nothing is said,
and a transfer to VQAv2 learned 'answer en {question}'; which one the papers used is not known to
us.

antialias: False resizes without it, as for the published scores; True is how a transfer to VQAv2
was trained, and its scores do not compare with those.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources

# What the papers print: {measure: {model: {res: score}}}; from big_vision's README.
PUBLISHED = {
  "accuracy (random)": {"paligemma_3b": {224: 87.80, 448: 88.23}},
  "accuracy (popular)": {"paligemma_3b": {224: 85.87, 448: 86.77}},
  "accuracy (adversarial)": {"paligemma_3b": {224: 84.27, 448: 85.90}},
}
METRICS = {  # Which of our metrics each measure is.
  "accuracy (random)": "random/pope/acc",
  "accuracy (popular)": "popular/pope/acc",
  "accuracy (adversarial)": "adversarial/pope/acc",
}


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  prompt: str = "answer en {question}",
  wording: str = "bare",
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)

  ask = (pp.Decode(exif=False), pp.Resize(res, antialias=antialias), pp.Format(prompt))
  answer = dict(pp=ask, wording=wording, batch_size=256, text_len=48, max_len=32)
  c.evals = tuple(
    evals.Pope(f"{name}/pope", sources.Tfds(f"pope/{name}", "test"), **answer)
    for name in ("random", "popular", "adversarial")
  )
  return c
