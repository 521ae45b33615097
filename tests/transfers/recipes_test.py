"""The pages against the published recipes, in what moves a score without a word.

The expected values are read off big_vision's configs/proj/paligemma/transfers, as said at each.
"""

import dataclasses
import importlib
import inspect

import pytest

from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax.models import variants
from tools import try_transfers

# 'resize({res})' in the reference's pp strings, of training and of evaluation. Its video_decode
# resizes by tf.image.resize, whose antialias is off unless it is asked for.
SHARP = {
    "activitynet_cap", "activitynet_qa", "coco35l", "cococap", "gqa", "msrvtt_cap", "msrvtt_qa",
    "msvd_qa", "nlvr2", "refcoco_seg", "scicap", "science_qa", "screen2words", "textcaps",
    "vatex_cap",
}  # fmt: skip
# 'resize({res}, antialias=True)' in training, 'resize({res})' in evaluation; pope does not train.
SHARP_SCORES = SHARP | {"ai2d", "rsvqa_hr", "rsvqa_lr", "vizwizvqa", "pope"}
# 'resize({res}, antialias=True)' in both; mmvp, docci and coco_detection have no open recipe.
SMOOTH = {
    "aokvqa_da", "aokvqa_mc", "chartqa", "docvqa", "infovqa", "ocrvqa", "okvqa", "stvqa", "tallyqa",
    "textvqa", "vqav2", "widgetcap", "mmvp", "docci", "coco_detection", "light_16gb",
}  # fmt: skip


def page(name):
  return importlib.import_module(f"transfers.{name}")


def resizes(value):
  """{antialias of all ops in a nest of specs that have it}."""
  return {op.antialias for op in try_transfers.specs_in(value) if hasattr(op, "antialias")}


def in_training(config):
  return resizes((config.train.source, config.train.pp)) if config.train.source else set()


def in_scores(config):
  """Perplexity is of the training texts, prepared as in training, in the reference too."""
  return resizes(tuple(e for e in config.evals if not isinstance(e, evals.Perplexity)))


@pytest.mark.parametrize("name", sorted(SHARP_SCORES | SMOOTH))
def test_a_page_resizes_as_its_published_recipe(name):
  config = page(name).get_config()
  if config.train.source is not None:
    assert in_training(config) == {name not in SHARP}
  assert in_scores(config) == {name in SMOOTH}


@pytest.mark.parametrize("name", sorted(SHARP_SCORES))
def test_every_such_page_can_resize_smoothly_and_says_what_that_costs(name):
  config = page(name).get_config(antialias=True)
  assert in_training(config) | in_scores(config) == {True}
  assert "scores are not comparable" in " ".join(page(name).__doc__.split())


def test_every_page_is_in_one_of_these_lists():
  assert SHARP_SCORES | SMOOTH | {"mixture"} == set(try_transfers.names())


def test_the_mixture_resizes_each_task_as_its_own_page():
  module = page("mixture")
  config = module.get_config()
  for task, part in zip(module.TASKS, config.train.source.parts, strict=True):
    assert resizes(part) == {task not in SHARP}, task
  for evaluator in config.evals:
    task = module.SCORED[evaluator.name][1]
    assert resizes(evaluator) == {task not in SHARP_SCORES}, evaluator.name
  assert resizes(module.get_config(antialias=True).to_dict()) == {True}


@pytest.mark.parametrize("name", ["cococap", "coco35l", "textcaps"])
def test_crops_are_resized_as_in_the_reference(name):
  # resize_small(n) has method="area" if nothing is said, inception_crop antialias=False.
  def ops(crop):
    return [dataclasses.asdict(op) for op in page(name).get_config(crop=crop).train.pp[1:]]

  assert ops("rc")[0] | {"size": 256, "method": "area"} == ops("rc")[0]
  assert ops("ic")[0] | {"area": (50.0, 100.0), "antialias": False} == ops("ic")[0]
  assert ops("rs")[0] | {"size": 224, "antialias": False} == ops("rs")[0]


MODEL_PAGES = [
    name for name in try_transfers.names()
    if "model" in inspect.signature(inspect.unwrap(page(name).get_config)).parameters
]  # fmt: skip


@pytest.mark.parametrize("name", MODEL_PAGES)
def test_transfers_of_paligemma_2_cap_no_logits_of_attention(name):
  # arXiv:2412.03555, section 3: in stage 3, the transfers, both softcaps are off.
  config = page(name).get_config(model="paligemma2_3b")
  llm = variants.of_run(config.model, config.lora).llm
  assert (llm.attn_softcap, llm.final_softcap) == (0.0, 0.0)
  config.model.attn_logits_softcap = -1.0  # What the open code left on.
  assert variants.of_run(config.model, config.lora).llm.attn_softcap == 50.0


def test_coco35l_is_cut_and_decoded_as_in_the_reference():
  # text_len=32 for the training texts, cut by tolen, and for max_decode_len.
  config = page("coco35l").get_config()
  assert (config.train.text_len, config.train.overflow) == (32, "cut")
  assert {e.max_len for e in config.evals if isinstance(e, evals.CocoCaption)} == {32}


@pytest.mark.parametrize("languages", ["English", "mean of 35 languages, without English"])
def test_crossmodal_3600_is_scored_against_written_captions_and_others_beside(languages):
  # The reference's evaluator keeps 'captions', its dataset's caption as written, not
  # 'captions/tokenized'; in our dataset those are written_xx and captions_xx.
  module = page("coco35l")
  name, _, metric = module.METRICS[f"Crossmodal-3600 CIDEr ({languages})"].rpartition("/")
  (evaluator,) = [e for e in module.get_config().evals if e.name == name]
  assert metric == ("cider_avg" if evaluator.group else "cider")
  copied = {}
  for op in try_transfers.specs_in(evaluator):
    if isinstance(op, pp.Copy):
      copied.setdefault(op.out, set()).add(op.key.rpartition("_")[0])
  assert copied == {evaluator.target: {"written"}, evaluator.beside: {"captions"}}
