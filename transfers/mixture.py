"""One model for many tasks: the paper's multi-task transfer, one run with 26 scores.

  python -m paligemma_jax.prepare ai2d               # and so on, for every dataset below
  python -m paligemma_jax.train --config transfers/mixture.py --workdir runs/mixture

Each task is trained for 10 epochs, so every row of every task comes equally often. All use one
recipe at 224 px: lr 1e-5, batch size 256, no regularization. A task prefix in the prompt names the
task; prefix=False omits it. Published, as the mean over tasks: 78.9 with the prefix, and 77.6
without it, where several kinds of captions share one prompt (NoCaps drops from 118.4 to 98.9).
Models fine-tuned separately have 80.2 with this recipe and 84.6 with each task's best
(arXiv:2407.07726, Appendix H). The paper does not give the text of its prefixes; we use the names
of our configs.

antialias: False, the default, resizes the images of each task as the task's own config does, for
ten of them without antialiasing in evaluation. True antialiases all. The paper does not say how the
mixture's images were resized.

Scores are on rows that are not trained on: on validation sets if a test server keeps the answers,
else on test sets.
"""

import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import presets
from paligemma_jax import sources

# The published settings, for all tasks and resolutions.
BEST = {
  224: dict(lr=1e-5, wd=0.0, total="10 epochs"),
  448: dict(lr=1e-5, wd=0.0, total="10 epochs"),
  896: dict(lr=1e-5, wd=0.0, total="10 epochs"),
}

# Ops before the prompt, by task. CHOOSE: a training row of RefCOCO has many objects, one is taken.
PREPARE = {
  "ai2d": (pp.Join("choices", glue=" \t ", out="options"),),
  "widgetcap": (pp.DrawBox("bbox"),),
}
# Tasks whose published recipes resize without antialiasing: always, or in evaluation only.
SHARP = ("cococap", "gqa", "refcoco_seg", "scicap", "screen2words", "textcaps")
SHARP_SCORES = (*SHARP, "ai2d", "rsvqa_hr", "rsvqa_lr", "vizwizvqa")
CHOOSE = {
  "refcoco_seg": (
    pp.Choice(("masks", "boxes", "sentences"), ("mask", "box", "refs")),
    pp.Split("refs"),
    pp.Choice("refs", "sentence", each_once=False),
  ),
}

# Required versions of datasets whose rows have changed.
VERSIONS = {"okvqa": "1.1.0", "infovqa": "1.1.0"}

ANSWER, CAPTION = "answer en {question}", "caption en"
ONE, THE_ONE = (pp.Choice("answers"),), (pp.Copy("answer", "suffix"),)
CAPTIONS = (pp.Choice("captions"),)

# {task: (dataset, training split, prompt, ops that make the answer)}
TASKS = {
  "ai2d": ("ai2d", "train", "answer en  {question} choose from: {options}", THE_ONE),
  "cococap": ("cococap", "train+restval", CAPTION, CAPTIONS),
  "docvqa": ("docvqa", "train", "{question}", (pp.Choice("answers", each_once=False),)),
  "gqa": ("gqa", "train_balanced+val_balanced", ANSWER, THE_ONE),
  "infovqa": ("infovqa", "train", ANSWER, (*ONE, pp.Lower())),
  "ocrvqa": ("ocrvqa", "train+val", ANSWER, THE_ONE),
  "okvqa": ("okvqa", "train", ANSWER, ONE),
  "refcoco_seg": ("refcoco_seg/combined", "train", "{sentence}", ()),  # The answer: see below.
  "rsvqa_hr": ("rsvqa_hr/nonum", "train+val", ANSWER, (pp.Lower("answers"), *ONE)),
  "rsvqa_lr": ("rsvqa_lr/nonum", "train+val", ANSWER, (pp.Lower("answers"), *ONE)),
  "scicap": ("scicap", "train+val", CAPTION, (pp.Copy("caption", "suffix"),)),
  "screen2words": ("screen2words", "train+dev", CAPTION, CAPTIONS),
  "stvqa": ("stvqa", "train", ANSWER, (*ONE, pp.Lower())),
  "tallyqa": ("tallyqa", "train", ANSWER, (pp.Format("{answer}", out="suffix"),)),
  "textcaps": ("textcaps", "train", CAPTION, (*CAPTIONS, pp.Lower())),
  "textvqa": ("textvqa", "train", ANSWER, ONE),
  "vizwizvqa": ("vizwizvqa", "train", ANSWER, ONE),
  "vqav2": ("vqav2", "train+validation[:-10240]", ANSWER, ONE),
  "widgetcap": ("widgetcap", "train+dev", CAPTION, CAPTIONS),
}
XGQA = "+".join(f"test_zs_{language}" for language in ("bn", "de", "id", "ko", "pt", "ru", "zh"))
TEXT, TEXTS = dict(target="answer", lower=True), dict(target="answers", lower=True)
PEOPLE = dict(target="answers", answer_type="")

# {name: (evaluator, task of the prompt, dataset, split, options)}
SCORED = {
  "ai2d/acc": (evals.VqaAccuracy, "ai2d", "ai2d", "test", dict(target="answer")),
  "cococap/cap": (evals.CocoCaption, "cococap", "cococap", "val", {}),
  "nocaps/cap": (evals.CocoCaption, "cococap", "nocaps", "val", {}),
  "docvqa/acc": (evals.VqaAccuracy, "docvqa", "docvqa", "val", TEXTS),
  "gqa/acc": (evals.VqaAccuracy, "gqa", "gqa", "testdev_balanced", dict(target="answer")),
  "xgqa/acc": (evals.Rsvqa, "gqa", "xgqa", XGQA, dict(target="answer", question_type="language")),
  "infovqa/acc": (evals.VqaAccuracy, "infovqa", "infovqa", "val", TEXTS),
  "ocrvqa/acc": (evals.VqaAccuracy, "ocrvqa", "ocrvqa", "test", TEXT),
  "okvqa/acc": (evals.VqaAccuracy, "okvqa", "okvqa", "val", dict(target="answers")),
  "rsvqa_hr/acc": (evals.Rsvqa, "rsvqa_hr", "rsvqa_hr/nonum", "test", dict(lower=True)),
  "rsvqa_hr_2/acc": (evals.Rsvqa, "rsvqa_hr", "rsvqa_hr/nonum", "test_2", dict(lower=True)),
  "rsvqa_lr/acc": (evals.Rsvqa, "rsvqa_lr", "rsvqa_lr/nonum", "test", dict(lower=True)),
  "refcoco/seg": (evals.Segmentation, "refcoco_seg", "refcoco_seg/refcoco", "val", {}),
  "refcoco_plus/seg": (evals.Segmentation, "refcoco_seg", "refcoco_seg/refcoco_plus", "val", {}),
  "refcocog/seg": (evals.Segmentation, "refcoco_seg", "refcoco_seg/refcocog", "val", {}),
  "scicap/cap": (evals.CocoCaption, "scicap", "scicap", "test", dict(target="caption")),
  "screen2words/cap": (evals.CocoCaption, "screen2words", "screen2words", "test", {}),
  "stvqa/acc": (evals.VqaAccuracy, "stvqa", "stvqa", "val", TEXTS),
  "tallyqa/acc": (evals.TallyQa, "tallyqa", "tallyqa", "test", {}),
  "countbench/acc": (
    evals.TallyQa,
    "tallyqa",
    "countbenchqa",
    "huggingface",
    dict(target="number", simple=""),
  ),
  "textcaps/cap": (evals.CocoCaption, "textcaps", "textcaps", "val", {}),
  "textvqa/acc": (evals.VqaV2Accuracy, "textvqa", "textvqa", "val", PEOPLE),
  "vqav2/acc": (evals.VqaV2Accuracy, "vqav2", "vqav2", "validation[-10240:]", {}),
  "vizwizvqa/acc": (evals.VqaAccuracy, "vizwizvqa", "vizwizvqa", "val", dict(target="answers")),
  "widgetcap/cap": (evals.CocoCaption, "widgetcap", "widgetcap", "test", {}),
}

# Published scores, with the task prefix in the prompt: {measure: {model: {res: score}}}.
PUBLISHED = {
  measure: {"paligemma_3b": {224: score}}
  for measure, score in {
    "AI2D accuracy (test)": 72.3,
    "COCO captions CIDEr (val)": 139.5,
    "NoCaps CIDEr (val)": 118.4,
    "DocVQA ANLS (val)": 32.2,
    "GQA accuracy (testdev balanced)": 64.9,
    "xGQA accuracy (mean of 7 languages)": 55.8,
    "InfoVQA ANLS (val)": 20.8,
    "OCR-VQA accuracy (test)": 71.4,
    "OK-VQA accuracy (val)": 67.0,
    "RefCOCO mean IoU (val)": 68.4,
    "RefCOCO+ mean IoU (val)": 61.2,
    "RefCOCOg mean IoU (val)": 61.8,
    "RSVQA-HR mean accuracy (test)": 92.1,
    "RSVQA-HR mean accuracy (test 2)": 90.0,
    "RSVQA-LR mean accuracy (test)": 93.4,
    "SciCap CIDEr (test)": 74.7,
    "Screen2Words CIDEr (test)": 111.6,
    "ST-VQA ANLS (val)": 58.3,
    "TallyQA accuracy (simple)": 80.4,
    "TallyQA accuracy (complex)": 69.6,
    "CountBenchQA accuracy": 80.6,
    "TextCaps CIDEr (val)": 122.5,
    "TextVQA accuracy (val)": 56.0,
    "VQAv2 accuracy (minival)": 83.4,
    "VizWiz-VQA accuracy (val)": 75.7,
    "Widget Captioning CIDEr (test)": 129.1,
  }.items()
}
METRICS = {
  "AI2D accuracy (test)": "ai2d/acc/acc",
  "COCO captions CIDEr (val)": "cococap/cap/cider",
  "NoCaps CIDEr (val)": "nocaps/cap/cider",
  "DocVQA ANLS (val)": "docvqa/acc/anls",
  "GQA accuracy (testdev balanced)": "gqa/acc/acc",
  "xGQA accuracy (mean of 7 languages)": "xgqa/acc/acc_avg",
  "InfoVQA ANLS (val)": "infovqa/acc/anls",
  "OCR-VQA accuracy (test)": "ocrvqa/acc/acc",
  "OK-VQA accuracy (val)": "okvqa/acc/acc",
  "RefCOCO mean IoU (val)": "refcoco/seg/miou",
  "RefCOCO+ mean IoU (val)": "refcoco_plus/seg/miou",
  "RefCOCOg mean IoU (val)": "refcocog/seg/miou",
  "RSVQA-HR mean accuracy (test)": "rsvqa_hr/acc/acc_avg",
  "RSVQA-HR mean accuracy (test 2)": "rsvqa_hr_2/acc/acc_avg",
  "RSVQA-LR mean accuracy (test)": "rsvqa_lr/acc/acc_avg",
  "SciCap CIDEr (test)": "scicap/cap/cider",
  "Screen2Words CIDEr (test)": "screen2words/cap/cider",
  "ST-VQA ANLS (val)": "stvqa/acc/anls",
  "TallyQA accuracy (simple)": "tallyqa/acc/acc/simple",
  "TallyQA accuracy (complex)": "tallyqa/acc/acc/complex",
  "CountBenchQA accuracy": "countbench/acc/acc",
  "TextCaps CIDEr (val)": "textcaps/cap/cider",
  "TextVQA accuracy (val)": "textvqa/acc/acc",
  "VQAv2 accuracy (minival)": "vqav2/acc/acc",
  "VizWiz-VQA accuracy (val)": "vizwizvqa/acc/acc",
  "Widget Captioning CIDEr (test)": "widgetcap/cap/cider",
}


@pj.sweepable
def get_config(
  res: int = 224,
  model: str = "paligemma_3b",
  tune: str = "full_adam",
  prefix: bool = True,
  codec: str = "vae-oid.npz",
  antialias: bool = False,
):
  c = pj.default_config()
  c.model.update(variant=model, res=res, attn_logits_softcap=0.0)
  c.init = pj.pretrained(model, res)

  def ask(task: str, scored: bool = False) -> tuple:
    """The ops from a row to the prompt."""
    prompt = TASKS[task][2]
    word = pp.Format(f"{task} {prompt}" if prefix else prompt)
    smooth = antialias or task not in (SHARP_SCORES if scored else SHARP)
    image = (pp.Decode(exif=False), pp.Resize(res, antialias=smooth))
    return (*image, *PREPARE.get(task, ()), word)

  masks = {"refcoco_seg": (pp.MaskToText(codec, bins=1023),)}
  parts = [
    sources.Part(
      sources.Tfds(dataset, split, version=VERSIONS.get(dataset, "")),
      (*CHOOSE.get(task, ()), *ask(task), *masks.get(task, answer)),
    )
    for task, (dataset, split, _, answer) in TASKS.items()
  ]
  # Rows longer than 128 tokens are dropped and counted.
  c.train.update(source=sources.Mixture(parts), text_len=128, overflow="drop", batch_size=256)

  best = BEST[res]
  c.optim.update(lr=best["lr"], wd=best["wd"])
  presets.apply(c, tune)
  c.train.total = best["total"]

  # The longest answers are captions of figures.
  decode = dict(every="end", batch_size=256, text_len=256, max_len=96)
  c.evals = tuple(
    kind(
      name,
      sources.Tfds(dataset, split, version=VERSIONS.get(dataset, "")),
      ask(task, scored=True),
      **decode,
      **options,
      **(dict(codec=codec, bins=1023) if kind is evals.Segmentation else {}),
    )
    for name, (kind, task, dataset, split, options) in SCORED.items()
  )
  return c
