"""Copy this config, change the parts marked EDIT, and fine-tune PaliGemma on your own data.

  python -m paligemma_jax.new mine.py
  python -m paligemma_jax.train --config mine.py --workdir runs/mine

Unchanged, it runs on embedded demo data: a tiny model and scenes of emoji drawings.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources


# Arguments are set after a colon: `--config mine.py:res=448,tune=lora`. All other keys can be set
# too: `--config.optim.lr=3e-5`; `--config.evals=none` turns the evaluators off.
@pj.sweepable
def get_config(res: int = 112, text_len: int = 48, tune: str = "full_adam"):
  c = pj.default_config()  # Has all keys; typos are rejected with a suggestion.

  # EDIT 1: the pretrained model. For the released PaliGemma 2 with 3 billion parameters:
  #   c.model.update(variant="paligemma2_3b", res=res, attn_logits_softcap=0.0)
  #   with res 224, 448 or 896, and without a softcap, as in the paper's transfers;
  #   c.init = f"pt_3b_{res}"   or a path: a run folder, an .npz, a Hugging Face directory.
  c.model.update(variant="tiny", res=res)
  c.init = "tiny_112"

  # EDIT 2: the data. For lines like {"image": "cat.jpg", "suffix": "a cat on a mat"}:
  #   train = sources.Jsonl("data/train.jsonl", images="data/images", columns=("image", "suffix"))
  #   val = train.replace(path="data/val.jsonl")
  train = sources.Scenes(
    split="forkme", num_rows=6400, tasks=("caption",), classes="heldout", kinds=1, size=res
  )
  val = train.replace(split="forkme_val", num_rows=100)

  # EDIT 3: ops that make `image`, `prefix` (the prompt) and `suffix` (the answer) of a row.
  # Any text can be the prompt; the prompts of pretraining work best at the start.
  # If your lines have a `prefix`, omit Format, which would overwrite it.
  ops = (pp.Decode(), pp.Resize(res), pp.Format("caption en"))

  # EDIT 4: the training run. For the released models use about lr=1e-5 and wd=3e-7. `tune` selects
  # the trainable parameters and the optimizer: full_adam, adam8bit, lora, qlora, sgd_attention,
  # full_adam+freeze_vit, … (`paligemma_jax.presets.TUNES`). sgd_attention sets its own lr.
  c.train.update(source=train, pp=ops, text_len=text_len, batch_size=32, total="1 epoch")
  c.optim.update(lr=5e-4, wd=0.0)
  presets.apply(c, tune)
  c.ckpt.every = "100 steps"

  # EDIT 5: the metrics, their rows and their schedule.
  c.evals = (
    evals.Perplexity("val/loss", val, ops, every="50%", text_len=text_len),
    evals.ExactMatch("val/exact", val, ops, max_len=text_len),
    evals.WritePredictions("val/pred", val, ops, max_len=text_len),
  )
  return c
