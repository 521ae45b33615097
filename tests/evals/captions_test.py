"""Caption scores against pycocoevalcap's, and by hand."""

import json
import math
import shutil
import sys
import time
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.evals import captions
from tests.evals import ptb_test

ALL = ("cider", "bleu", "rouge")


@pytest.fixture(scope="module")
def golden():
  return ptb_test.read("scores.json.gz")


@pytest.mark.parametrize(
  ("tokens", "caption", "references"),
  [("blanks", "hyp_tok", "refs_tok"), ("ptb", "hyp", "refs")],
)
def test_the_scores_are_the_official_ones(golden, tokens, caption, references):
  examples, corpus = golden["examples"], golden["corpus"]
  predictions = [e[caption] for e in examples]
  rows = [{"captions": e[references]} for e in examples]
  result = evals.score("coco_caption", predictions, rows, metrics=ALL, tokens=tokens)
  # The order of sums differs.
  assert result["cider"] == pytest.approx(corpus["cider"], abs=1e-12)
  assert result["rouge"] == pytest.approx(corpus["rougeL"], abs=1e-12)
  bleu = [result[f"bleu-{n}"] for n in (1, 2, 3, 4)]
  assert bleu == pytest.approx(corpus["bleu"], abs=1e-12)
  outputs = [evals.Output(i, text) for i, text in enumerate(predictions)]
  table = evals.CocoCaption("x", None, metrics=ALL, tokens=tokens).table(rows, outputs)
  for name, key in {"cider": "cider", "rouge": "rougeL"}.items():
    wanted = [e[key] for e in examples]
    np.testing.assert_allclose(table[name], wanted, rtol=0, atol=1e-12)
  for i, example in enumerate(examples):
    sums = np.array([table[f"bleu_sum_{k}"][i] for k in range(10)])
    assert captions.bleu(sums) == pytest.approx(example["bleu"], abs=1e-12)


def test_of_one_image_cider_is_0_and_the_rest_is_not():
  result = evals.score("coco_caption", ["a red dog"], [{"captions": ["A red dog."]}], metrics=ALL)
  assert result["cider"] == 0.0 and result["rouge"] == 1.0
  assert result["bleu-1"] == pytest.approx(1.0, abs=1e-8)
  assert result["bleu-4"] < 0.1  # There are no four words in a row.
  assert (result["num"], result["num_truth"]) == (1.0, 1.0)


def test_a_perfect_caption_that_is_like_no_other_scores_10():
  texts = ["a b c d e", "f g h i j", "k l m n o"]
  rows = [{"captions": [text]} for text in texts]
  assert evals.score("coco_caption", texts, rows)["cider"] == pytest.approx(10.0, rel=1e-12)


def test_rouge_by_hand():
  # 'a c' is common: precision 2/3, recall 2/4.
  precision, recall, weight = 2 / 3, 2 / 4, 1.2**2
  wanted = (1 + weight) * precision * recall / (recall + weight * precision)
  assert captions.rouge_l("a x c", ["a b c d"]) == pytest.approx(wanted, rel=1e-15)
  assert captions.rouge_l("", [""]) == 1.0 and captions.rouge_l("a", [""]) == 0.0


@settings(deadline=None)  # The machine may be busy.
@given(*(st.lists(st.sampled_from("abc"), max_size=9) for _ in range(2)))
def test_the_longest_common_subsequence_is_that_of_the_plain_recursion(a, b):
  table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
  assert captions._longest_common(a, b) == table[-1][-1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text("ab ", max_size=9), st.lists(st.text("ab ", max_size=9)))))
def test_scores_lie_in_bounds_whatever_the_captions(pairs):
  rows = [{"captions": target} for _, target in pairs]
  result = evals.score("coco_caption", [p for p, _ in pairs], rows, metrics=ALL)
  assert result["num_truth"] == sum(bool(target) for _, target in pairs)
  assert -1e-9 <= result["cider"] <= 10 + 1e-9
  assert all(0 <= result[k] <= 1 + 1e-9 for k in result if k[:4] in ("bleu", "roug"))


def test_languages_without_blanks_are_counted_by_letters_on_request():
  rows = [{"captions": ["一只狗在跑。"]}, {"captions": ["แมวดำ"]}, {"captions": ["a big dog"]}]
  predicted = ["一只猫在跑", "แมวขาว", "a big dog"]
  scores = {
    tokens: evals.score("coco_caption", predicted, rows, metrics=("rouge",), tokens=tokens)["rouge"]
    for tokens in ("ptb", "characters")
  }
  assert scores["ptb"] == pytest.approx(1 / 3, rel=1e-12) and scores["characters"] > 0.6
  assert captions.TOKENS["characters"]("กินน้ำ, dog's") == "กิ น น้ ำ dog 's"


def test_groups_are_scored_as_if_each_were_alone():
  parts = {
    "de": (["ein Hund", "eine Katze"], [["ein Hund", "der Hund"], ["ein Kater"]]),
    "en": (["a dog runs", "a cat", "x"], [["a dog"], ["the cat sits"], ["a cow", "cows"]]),
  }
  predicted, rows = [], []
  for language, (texts, targets) in parts.items():
    predicted += texts
    rows += [{"captions": target, "language": language} for target in targets]
  rows.append({"captions": [], "language": "fr"})  # Without target there is no such group.
  together = evals.score("coco_caption", [*predicted, "x"], rows, metrics=ALL, group="language")
  for language, (texts, targets) in parts.items():
    alone = evals.score("coco_caption", texts, [{"captions": t} for t in targets], metrics=ALL)
    for key in ("cider", "bleu-1", "bleu-4", "rouge", "num"):
      assert together[f"{key}/{language}"] == pytest.approx(alone[key], rel=1e-12), key
  mean = (together["cider/de"] + together["cider/en"]) / 2
  assert together["cider_avg"] == pytest.approx(mean, rel=1e-12)
  assert (together["num"], together["num_truth"]) == (6.0, 5.0)
  assert "cider" not in together and not any(key.endswith("/fr") for key in together)


def test_the_evaluator_scores_and_writes_what_coco_tools_read():
  spec = evals.CocoCaption("val/cap", None, metrics=ALL, bootstrap=50)
  rows = [{"captions": ["a dog", "the dog"], "image_id": np.int64(7)},
          {"captions": ["a cat"], "image_id": np.int64(9)}]  # fmt: skip
  outputs = [evals.Output(0, "a dog"), evals.Output(1, "ein Kätzchen")]
  assert spec.columns() == ("captions", "image_id")
  texts = [o.text for o in outputs]
  result = spec.score(rows, outputs)
  assert result == evals.score("coco_caption", texts, rows, metrics=ALL)
  files = spec.files(rows, outputs)
  assert json.loads(files["val/cap.json"]) == [
      {"image_id": 7, "caption": "a dog"}, {"image_id": 9, "caption": "ein Kätzchen"}
  ]  # fmt: skip
  assert spec.replace(image_id="").files(rows, outputs) == {}
  found = evals.intervals(spec, rows, outputs)
  assert found["cider/low"] <= result["cider"] <= found["cider/high"]


def test_the_same_captions_are_scored_against_another_column_beside():
  rows = [{"written": ["猫在睡觉", "猫。"], "tokenized": ["猫 在 睡觉", "猫 。"], "image_id": 1},
          {"written": ["狗在跑"], "tokenized": ["狗 在 跑"], "image_id": 2}]  # fmt: skip
  evaluator = evals.CocoCaption("x", None, target="written", beside="tokenized")
  assert evaluator.columns() == ("written", "image_id", "tokenized")
  predicted = ["猫 在 睡觉", "狗 在 跑"]
  found = evaluator.score(
    rows, [evals.Output(row=i, text=text) for i, text in enumerate(predicted)]
  )
  for column, prefix in (("written", ""), ("tokenized", "tokenized/")):
    alone = evals.score("coco_caption", predicted, rows, target=column)
    assert {name: found[prefix + name] for name in alone} == alone
  # To the tokenizer for English a written caption is one word, or two with a full stop.
  assert found["cider"] < 0.5 and found["tokenized/cider"] > 3


def test_parts_are_scored_beside_all_rows():
  # As NoCaps prints them: overall, and each domain by the official tool on its images alone.
  predicted = ["a cat sleeps", "a dog runs fast", "a red bus", "a blue bus"]
  rows = [
      {"captions": [text, "a thing"], "domain": domain, "image_id": i}
      for i, (text, domain) in enumerate(
          [("a cat sleeps", "in-domain"), ("a dog sits", "in-domain"), ("a red bus", "out-domain"),
           ("two green buses", "out-domain")])
  ]  # fmt: skip
  evaluator = evals.CocoCaption("x", None, parts="domain")
  assert evaluator.columns() == ("captions", "image_id", "domain")
  found = evaluator.score(
    rows, [evals.Output(row=i, text=text) for i, text in enumerate(predicted)]
  )
  of_all = evals.score("coco_caption", predicted, rows)
  assert {name: found[name] for name in of_all} == of_all
  for domain, part in (("in-domain", slice(0, 2)), ("out-domain", slice(2, 4))):
    alone = evals.score("coco_caption", predicted[part], rows[part])
    assert found[f"cider/{domain}"] == alone["cider"] and found[f"num/{domain}"] == 2
  assert "cider_avg" not in found
  with pytest.raises(errors.ConfigError, match="give one of them"):
    evaluator.replace(group="domain")


def test_a_wrong_call_is_one_clear_sentence():
  rows = [{"captions": ["a"]}]
  with pytest.raises(errors.ConfigError, match="cider"):
    evals.score("coco_caption", ["a"], rows, metrics=("cidr",))
  with pytest.raises(errors.ConfigError, match="characters"):
    evals.CocoCaption("x", None, tokens="character")
  with pytest.raises(errors.ConfigError, match="tuple"):
    evals.CocoCaption("x", None, metrics="cider")
  with pytest.raises(errors.DataError, match="captions"):
    evals.score("coco_caption", ["a"], [{"caption": "a"}])


@pytest.mark.parametrize("metric", ["meteor", "spice"])
def test_without_the_java_tools_the_package_is_named(metric, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap", None)
  with pytest.raises(errors.ConfigError, match="pip install pycocoevalcap"):
    evals.score("coco_caption", ["a"], [{"captions": ["a"]}], metrics=(metric,))


# What METEOR 1.5's program (pycocoevalcap 1.2, Java 17) said of three captions: its counts for
# each, its score of each, and of the three together the first value of compute_score.
METEOR_COUNTS = """
3 3 1 1  2 2 1 1  0 0 0 0  0 0 0 0  0 0 0 0  1 3 3
1 2 0 1  0 0 0 0  0 0 0 0  0 0 0 0  0 0 0 0  0 0 0
9 4 4 1  2 2 0 0  0 0 0 0  0 0 0 0  1 1 1 1  2 4 4
"""
METEOR_OF_EACH = (1.0, 0.0, 0.3535176353292982)
METEOR_OF_ALL = 0.3697232520750984
METEOR_SAID = ("a dog runs", "x", "two dogs lying on the grass near a car")
METEOR_TRUE = (
    ["a dog runs", "dogs run quickly"], ["a cat"],
    ["dogs lie in grass", "the two dog lay on grass by the car"],
)  # fmt: skip


class RecordedMeteor:
  """The program's answers, for machines without Java."""

  def __init__(self):
    self.answers = dict(zip(METEOR_SAID, METEOR_COUNTS.strip().splitlines(), strict=True))

  def _stat(self, caption, references):
    return self.answers[caption]


def meteor(places, **options):
  rows = [{"captions": METEOR_TRUE[i], "kind": "ab"[i > 1]} for i in places]
  predicted = [METEOR_SAID[i] for i in places]
  return evals.score("coco_caption", predicted, rows, metrics=("meteor",), **options)


def check_meteor():
  for i, of_one in enumerate(METEOR_OF_EACH):
    assert meteor([i])["meteor"] == pytest.approx(of_one, abs=1e-12)
  found = meteor([0, 1, 2], bootstrap=50)
  assert found["meteor"] == pytest.approx(METEOR_OF_ALL, abs=1e-12)
  assert found["meteor"] < sum(METEOR_OF_EACH) / 3 - 0.05  # Not the mean of the captions' own.
  assert found["meteor/low"] <= found["meteor"] <= found["meteor/high"]
  by_kind = meteor([0, 1, 2], group="kind")
  assert by_kind["meteor/b"] == pytest.approx(METEOR_OF_EACH[2], abs=1e-12)
  assert by_kind["meteor/a"] == pytest.approx(meteor([0, 1])["meteor"], abs=1e-12)


def test_meteor_of_a_set_is_the_tools_own(monkeypatch):
  module = types.SimpleNamespace(Meteor=RecordedMeteor)
  monkeypatch.setitem(sys.modules, "pycocoevalcap.meteor.meteor", module)
  monkeypatch.setattr(captions.shutil, "which", lambda name: "/usr/bin/java")
  check_meteor()


def test_meteor_of_the_program_itself_is_what_was_recorded():
  pytest.importorskip("pycocoevalcap", reason="METEOR is a Java program that it brings along")
  if shutil.which("java") is None:
    pytest.skip("there is no Java")
  check_meteor()


# A fifth of what must take no more than 10 s; measured 0.8 s. The bound is for busy machines.
def test_a_thousand_captions_against_five_each_take_seconds():
  rng = np.random.default_rng(0)
  vocabulary = np.array([f"w{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}" for i in range(600)])
  words = vocabulary[(600 * rng.random((6000, 10)) ** 2).astype(int)]
  texts = [" ".join(line) + "." for line in words]
  rows = [{"captions": texts[5 * i : 5 * i + 5]} for i in range(1000)]
  start = time.process_time()
  result = evals.score("coco_caption", texts[5000:], rows, metrics=ALL)
  assert time.process_time() - start < 5
  assert math.isfinite(result["cider"])
