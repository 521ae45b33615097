"""Validation: each kind of mistake is found without a device, and a good configuration passes."""

import re

import pytest

import paligemma_jax as pj
from paligemma_jax.config import load
from paligemma_jax.config import schema
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.models import variants
from tests.core import stand_ins

Judge, Make, Rows = stand_ins.Judge, stand_ins.Make, stand_ins.Rows


def good_config():
  c = load.default_config()
  c.train.update(source=Rows(), pp=stand_ins.OPS, total="3 epochs", batch_size=8)
  c.optim.lr = 1e-5
  c.evals = (
    Judge("val/acc", Rows(), stand_ins.OPS, every="10%", reads=("suffix",)),
    Judge("val/end", Rows(()), stand_ins.OPS, reads=("whatever",)),
  )
  return c


def message_of(c, **options):
  with pytest.raises(errors.ConfigError) as caught:
    load.validate(c, **options)
  return str(caught.value)


def changed(path, value):
  c = good_config()
  section, _, name = path.rpartition(".")
  with c.ignore_type():  # What a file can only do by force, a saved JSON can hold all the same.
    (c[section] if section else c)[name] = value
  return c


def test_a_good_configuration_passes():
  load.validate(good_config(), variants=("tiny",))


def test_training_asks_for_what_a_run_needs_and_evaluation_does_not():
  c = load.default_config()
  message = message_of(c)
  for key in ("train.source", "train.total", "optim.lr"):
    assert f"  - {key} is " in message
  load.validate(c, training=False)


@pytest.mark.parametrize("path", schema.flat())
def test_a_value_of_a_wrong_type_is_found_at_every_key(path):
  message = message_of(changed(path, b"bytes"))
  assert path in message
  assert "b'bytes'" in message


@pytest.mark.parametrize("path", [p for p, k in schema.flat().items() if k.choices])
def test_every_choice_is_legal_and_anything_else_is_named_with_what_is_known(path):
  for choice in schema.flat()[path].choices:
    load.validate(changed(path, choice), training=False)
  message = message_of(changed(path, "nonesuch"))
  assert f"Unknown {path} 'nonesuch'." in message


@pytest.mark.parametrize("path", [p for p, k in schema.flat().items() if k.low is not None])
def test_numbers_below_the_least_legal_one_are_refused(path):
  low = schema.flat()[path].low
  assert f"{path} must be at least {low}, not {low - 1}" in message_of(changed(path, low - 1))


@pytest.mark.parametrize(
  "path, value, message",
  [
    ("optim.lr", float("nan"), "optim.lr must be a finite number"),
    ("optim.lr", "1e-5", "optim.lr must be a number, but '1e-5' is a str"),
    ("seed", True, "seed must be a whole number, but True is a bool"),
    ("init", None, "init must be a text, but None is a NoneType"),
    ("optim.b1", 1.0, "optim.b1 must be less than 1"),
    ("model.final_logits_softcap", -0.5, "model.final_logits_softcap=-0.5: write 0"),
    ("model.attn_logits_softcap", -0.5, "model.attn_logits_softcap=-0.5: write 0"),
    ("model.dropout", 1.0, "model.dropout must be at most 0.99"),
    ("train.total", "many", "train.total: 'many' is not a duration; write '200 steps'"),
    ("train.total", "50%", "train.total='50%' is a share of itself"),
    ("train.total", "", "train.total is not set"),
    ("log.every", "200", "log.every: '200' is not a duration"),
    ("optim.warmup", "105%", "optim.warmup must be at most '100%'"),
    ("optim.freeze", ("img/(",), "optim.freeze: 'img/(' is not a regular expression"),
    ("optim.freeze", "img/.*", "optim.freeze must be a tuple of regexes"),
    ("optim.freeze", (3,), "optim.freeze: 3 is not a regular expression"),
    ("optim.lr_mults", (("img/.*",),), "optim.lr_mults must be a tuple of pairs"),
    ("optim.lr_mults", (("img/.*", -1),), "the number at least 0"),
    ("optim.momentum", 0.9, "optim.momentum=0.9 is for optim.name='sgd'"),
    ("optim.eps", 0.0, "optim.eps must be above 0"),
    ("optim.schedule_end", 0.1, "is for optim.schedule='linear' only"),
    ("train.grad_accum_steps", 3, "train.grad_accum_steps=3 does not divide train.batch_size=8"),
    ("train.buckets", (64, 32), "train.buckets must be a tuple of rising text lengths"),
    ("train.buckets", (32, 128), "train.buckets=(32, 128) go beyond train.text_len=64"),
    ("mesh.shape", (("fsdp", 0),), "mesh.shape must be a tuple of pairs (axis, size)"),
    ("mesh.shape", (("fspd", -1),), "Unknown axis of mesh.shape 'fspd'. Did you mean 'fsdp'?"),
    ("mesh.shape", ("fsdp", -1), "mesh.shape must be a tuple of pairs"),
    ("mesh.shape", (("data", -1), ("fsdp", -1)), "one size at most -1"),
    ("mesh.shape", (("data", 1), ("data", 2)), "each axis once"),
    ("train.source", "rows.jsonl", "train.source must be a spec"),
    ("train.source", stand_ins.RESIZE, "is no source of paligemma_jax.sources"),
    ("train.pp", stand_ins.RESIZE, "one spec needs a comma: (x,)"),
    ("train.pp", (Make,), "train.pp[0] must be a spec; it is a class, write it with brackets"),
    ("train.pp", (Rows(),), "train: pp[0] is Rows(names=('image', 'text')"),
    ("evals", (Rows(),), "evals[0] is Rows("),
    ("evals", (), "the metric"),
    ("ckpt.best", "val/ac/acc", "ckpt.best='val/ac/acc' is no metric"),
    ("ckpt.best", "val/acc/", "ckpt.best='val/acc/' is no metric"),
    ("log.trackers", (Rows(),), "log.trackers[0] is "),
    ("log.trackers", ("wanb",), "Unknown tracker of log.trackers 'wanb'. Did you mean 'wandb'?"),
    ("log.trackers", (Make,), "log.trackers[0] must be a spec; it is a class"),
    ("log.profile", "10-13", "log.profile: '10-13' names no steps; write 'steps 10-13'"),
    ("ckpt.best", "val/end/acc", "evaluator 'val/end' never runs during training"),
  ],
)
def test_what_is_wrong_is_named_with_its_key(path, value, message):
  if path == "evals" and value == ():
    c = changed("ckpt.best", "val/acc/acc")
    c.evals = ()
    assert "evals is empty" in message_of(c)
  else:
    assert message in message_of(changed(path, value))


def test_the_best_metric_of_an_evaluator_that_runs_is_legal():
  load.validate(changed("ckpt.best", "val/acc/acc/yesno"))


def test_an_unknown_variant_is_named_with_the_near_match():
  c = changed("model.variant", "paligema2_3b")
  message = message_of(c, variants={"tiny": 1, "paligemma2_3b": 2})
  assert re.search(r"Unknown model\.variant 'paligema2_3b'\. Did you mean 'paligemma2_3b'", message)


def test_a_section_that_was_replaced_is_found():
  c = good_config()
  c.optim = {"lr": 1.0}
  assert "optim.name, optim.custom, optim.wd" in message_of(c)
  assert "do not replace it" in message_of(c)


def test_a_key_smuggled_past_the_lock_is_found():
  c = good_config()
  with c.unlocked():
    c.optim.lrr = 3
  assert message_of(c) == "There is no key 'optim.lrr'. Did you mean 'optim.lr'?"


def test_all_problems_are_told_at_once():
  c = good_config()
  c.optim.lr = 0.0
  c.train.grad_accum_steps = 3
  c.ckpt.best = "x/y"
  message = message_of(c)
  assert message.startswith("The configuration has 3 problems:\n  - ")
  assert message.count("\n  - ") == 3


# Columns from the source through the ops to their readers.


def test_an_op_that_reads_what_nobody_makes_is_named_with_the_near_column():
  c = changed("train.pp", (Make(("imgae",), ("image",)), stand_ins.FORMAT))
  message = message_of(c)
  assert "train: pp[0] Make(reads=('imgae',)" in message
  assert "reads the column 'imgae'" in message
  assert "Did you mean 'image'?" in message


def test_an_op_may_not_read_what_only_a_later_op_makes():
  c = changed("train.pp", (Make(("prefix",), ("x",)), *stand_ins.OPS))
  assert "reads the column 'prefix', which neither the source nor an earlier op" in message_of(c)


def test_training_ends_with_image_prefix_and_suffix():
  c = changed("train.pp", (stand_ins.RESIZE, Make(("text",), ("prefix",))))
  assert message_of(c).startswith("train: training reads the column 'suffix'")


def test_a_decoding_evaluator_needs_no_suffix_but_the_columns_it_reads():
  ops = (Make(("text",), ("prefix",)),)
  load.validate(changed("evals", (Judge("v", Rows(), ops),)))
  c = changed("evals", (Judge("v", Rows(), ops, reads=("answers",)),))
  assert message_of(c).startswith("evaluator 'v': Judge reads the column 'answers'")


def test_a_source_of_unknown_columns_is_trusted():
  load.validate(changed("train.source", Rows(())))


def test_the_real_specs_fit_together():
  pp, ops = pj.pp, (pj.pp.Decode(), pj.pp.Resize(112), pj.pp.Format("caption en"))
  source = pj.sources.Jsonl("train.jsonl", images="images", columns=("image", "suffix"))
  c = good_config()
  c.train.update(source=source, pp=ops)
  c.evals = (
    pj.evals.Perplexity("val/loss", source, ops, every="10%"),
    pj.evals.WritePredictions("val/pred", source, ops),
  )
  load.validate(c, variants=variants.VARIANTS)
  c.train.pp = (ops[0], pp.Resize(224), ops[2])
  assert message_of(c) == "train: its ops make images of 224 pixels, but model.res is 112."
  c.train.pp = (ops[0], ops[1], pp.Format("answer en {question}"))
  assert "reads the column 'question'" in message_of(c)
  c.train.update(pp=ops, source=source.replace(columns=("image",)))
  assert message_of(c).startswith("train: training reads the column 'suffix'")


def test_images_of_another_size_than_the_models_are_found_the_last_resize_counts():
  resize = Make(("image",), ("image",), size=112)
  load.validate(changed("train.pp", (resize.replace(size=448), resize, *stand_ins.OPS[1:])))
  c = changed("train.pp", (resize.replace(size=224), *stand_ins.OPS[1:]))
  assert message_of(c) == "train: its ops make images of 224 pixels, but model.res is 112."


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"name": ""}, "evals[0]: its name must be a text"),
    ({"name": 3}, "evals[0]: its name must be a text"),
    ({"every": "often"}, "evaluator 'v': every: 'often' is not a duration"),
    ({"batch_size": 0}, "evaluator 'v': batch_size must be a whole number of at least 1"),
    ({"overflow": "trim"}, "evaluator 'v': overflow must be one of 'error', 'truncate', 'cut'"),
    ({"limit": -1}, "evaluator 'v': limit must be a whole number of at least 0"),
    ({"beam_size": 0}, "evaluator 'v': beam_size must be a whole number of at least 1, not 0"),
    ({"sampler": None}, "evaluator 'v': sampler must be a text such as 'greedy', not None"),
    ({"temperature": -1}, "evaluator 'v': temperature=-1 must be a number from 0 on"),
    ({"temperature": True}, "evaluator 'v': temperature=True must be a number from 0 on"),
    ({"top_k": 2.5}, "evaluator 'v': top_k=2.5 must be a whole number from 0 on"),
    ({"top_k": None}, "evaluator 'v': top_k=None must be a whole number from 0 on"),
    ({"top_p": 0}, "evaluator 'v': top_p=0 must be a number above 0 and at most 1"),
    ({"top_p": 1.5}, "evaluator 'v': top_p=1.5 must be a number above 0 and at most 1"),
    ({"repetition_penalty": 0}, "'v': repetition_penalty=0 must be a number above 0"),
    ({"stop": ("a", "")}, "evaluator 'v': stop=('a', '') must be a text, or several, that are"),
    ({"stop": 3}, "evaluator 'v': stop=3 must be a text, or several, that are not empty"),
    ({"sampler": "top_k(5)", "top_p": 0.5}, "choose one of the two ways"),
    ({"beam_size": 2, "temperature": 0.5}, "beam_size=2 searches, temperature=0.5, top_k=0"),
    ({"constraint": ("yes",)}, "evaluator 'v': constraint must be None or one of constraints."),
    ({"banned": "<eos>"}, "evaluator 'v': banned must be a tuple of texts of tokens, not '<e"),
    ({"banned": (1,)}, "evaluator 'v': banned must be a tuple of texts of tokens, not (1,)"),
    ({"source": "x"}, "evaluator 'v': its source must be a spec"),
    ({"pp": ("x",)}, "evaluator 'v': pp[0] must be a spec"),
  ],
)
def test_an_evaluator_that_cannot_run_is_named(changes, message):
  judge = Judge("v", Rows(), stand_ins.OPS).replace(**changes)
  assert message in message_of(changed("evals", (judge,)), training=False)


def test_an_evaluator_that_lacks_a_field_is_named():
  @spec.spec
  class Half:
    name: str = "v"
    encoding = "decode"

    def columns(self):
      return ()

    def score(self, rows, outputs):
      return {}

  assert "Half(name='v'), which is no evaluator" in message_of(changed("evals", (Half(),)))


@pytest.mark.parametrize("lacking", ["bootstrap", "start_limit", "score", "encoding"])
def test_an_evaluator_that_lacks_what_a_run_asks_for_is_refused_before_it(lacking):
  members = {name: value for name, value in vars(Judge).items() if name in Judge.__annotations__}
  members |= {"encoding": "decode", "columns": Judge.columns, "score": Judge.score}
  kinds = dict(Judge.__annotations__)
  for names in (members, kinds):
    names.pop(lacking, None)
  own = spec.spec(type("Own", (), {"__annotations__": kinds, **members}))
  c = changed("evals", (own("v", Rows(), stand_ins.OPS), Judge("x", Rows(), every="end")))
  c.ckpt.best = "x/acc"  # Which is looked up among all of them.
  assert "Own(name='v'" in message_of(c) and "which is no evaluator" in message_of(c)


def test_two_evaluators_of_one_name_are_refused():
  judge = Judge("v", Rows(), stand_ins.OPS)
  assert "Two evaluators are called 'v'" in message_of(changed("evals", (judge, judge)))
