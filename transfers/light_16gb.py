"""Long captions from 90 examples on one small GPU: the published notebook's recipe.

  gsutil -m cp -r gs://longcap100 .                  # 100 images with long captions, two .jsonl
  python -m paligemma_jax.train --config transfers/light_16gb.py --workdir runs/light_16gb

There are two recipes, both by big_vision's authors. notebook, for 16 GB: SGD on the decoder's
attention, the frozen parameters in half precision. vertexai_l4, for 24 GB: SGD without momentum on
all parameters, so that gradients are the only additional memory. Neither has a published score. The
captions are written out to be read; CIDEr on ten images with one caption each only shows whether
they improved.

For data of your own, put data_train90.jsonl and data_val10.jsonl with lines like {"image": "a.jpg",
"suffix": "A cow on a beach …"} into one folder with the images, and pass it as `data`.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources
from paligemma_jax.core import errors

# From big_vision's finetune_paligemma.ipynb and transfers/vertexai_l4.py.
RECIPES = {
  "notebook": dict(
    batch_size=8,
    total="512 examples",
    lr=0.03,
    grad_clip_norm=0.0,
    warmup="10%",
    schedule_start=1,
    train_only=("llm/layers/attn/.*",),
  ),
  "vertexai_l4": dict(
    batch_size=4,
    total="1 epochs",
    lr=0.1,
    grad_clip_norm=1.0,
    warmup="5%",
    schedule_start=0,
    train_only=(),
  ),
}


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  recipe: str = "notebook",
  data: str = "longcap100",
  text_len: int = 128,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  train = sources.Jsonl(f"{data}/data_train90.jsonl", columns=("image", "suffix"))
  val = train.replace(path=f"{data}/data_val10.jsonl")
  ask = (pp.Decode(exif=False), pp.Resize(res), pp.Format("caption en"))
  teach = (*ask, pp.Lower("suffix")) if recipe == "notebook" else ask
  c.train.update(source=train, pp=teach, text_len=text_len, overflow="truncate")

  best = errors.pick(RECIPES, recipe, "recipe")
  presets.apply(c, "sgd_attention")
  c.train.update(batch_size=best["batch_size"], total=best["total"])
  c.optim.update(
    lr=best["lr"],
    grad_clip_norm=best["grad_clip_norm"],
    warmup=best["warmup"],
    schedule_start=best["schedule_start"],
    train_only=best["train_only"],
  )
  c.log.every = "1 steps"

  caption = dict(every="25%", batch_size=8, text_len=32, max_len=text_len)
  c.evals = (
    evals.CocoCaption("val/cap", val, teach, target="suffix", image_id="image_path", **caption),
    evals.Perplexity("val/pplx", val, teach, every="25%", batch_size=8, text_len=1024),
    evals.WritePredictions("val/pred", val, teach, **caption),
  )
  return c
