"""POPE: does the model hallucinate objects? Evaluates a transfer to VQAv2.

  python -m paligemma_jax.prepare pope               # prints what to download; --raw DIR builds it
  python -m paligemma_jax.evaluate --config transfers/pope.py:res=448 --ckpt runs/vqav2

Published: accuracy of 87.80 (random), 85.87 (popular) and 84.27 (adversarial) at 224 px, 88.23,
86.77 and 85.90 at 448 px, for PaliGemma transferred to VQAv2 (big_vision's README). There is no
training; --ckpt names the weights. As in the reference, only a bare yes or no is a valid answer.
The script of POPE's authors counts any sentence without a no as a yes; wording=sentence does the
same.

prompt: the prompt that the model was trained with. The open code's default is '{question}', and a
transfer to VQAv2 is trained with 'answer en {question}'. The papers do not say which one they used.

antialias: False, the default, resizes without antialiasing, as for the published scores. True
antialiases, as in the training of a transfer to VQAv2; its scores are not comparable.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources

# Published scores: {measure: {model: {res: score}}}; from big_vision's README.
PUBLISHED = {
  "accuracy (random)": {"paligemma_3b": {224: 87.80, 448: 88.23}},
  "accuracy (popular)": {"paligemma_3b": {224: 85.87, 448: 86.77}},
  "accuracy (adversarial)": {"paligemma_3b": {224: 84.27, 448: 85.90}},
}
METRICS = {  # Our metric for each published measure.
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
