"""Detection from texts: the right numbers, the right confidences, and wrong truths named."""

import json
import math

import numpy as np
import pytest

from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.evals import detection
from paligemma_jax.regions import loc

_LEFT, _RIGHT = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)
_ROW = {"boxes": [_LEFT, _RIGHT], "labels": ["cat", "dog"], "height": 100, "width": 200}


def _text(*objects):
  return loc.format_boxes([b for b, _ in objects], [label for _, label in objects], bins=1024)


def test_everything_found_is_one_and_nothing_is_zero():
  found = evals.score("coco_detection", [_text((_RIGHT, "dog"), (_LEFT, "cat"))], [_ROW])
  assert found["map"] == pytest.approx(1) and found["ar100"] == 1
  # 100 x 100 pixels is more than 96 x 96.
  assert found["map_large"] == pytest.approx(1) and found["map_medium"] == -1
  assert (found["num"], found["num_boxes"], found["num_predicted"]) == (1, 2, 2)
  nothing = evals.score("coco_detection", ["", "<loc1"], [_ROW, _ROW])
  assert nothing["map"] == 0 and nothing["invalid"] == 1


def test_a_wrong_label_is_wrong_twice():
  found = evals.score("coco_detection", [_text((_LEFT, "dog"), (_RIGHT, "dog"))], [_ROW])
  assert found["map50"] == pytest.approx(0.25)  # No cat; of dogs the second is right.
  scores = [[0.1, 0.9]]
  texts = [_text((_LEFT, "dog"), (_RIGHT, "dog"))]
  found = evals.score("coco_detection", texts, [_ROW], scores=scores)
  assert found["map50"] == pytest.approx(0.5)


def test_crowds_and_areas_are_read_from_their_columns():
  row = {**_ROW, "crowd": [True, False], "areas": [20, 500]}
  options = dict(crowd="crowd", areas="areas")
  found = evals.score("coco_detection", [_text((_RIGHT, "dog"))], [row], **options)
  assert found["map"] == pytest.approx(1) and found["map_small"] == pytest.approx(1)
  assert found["map_large"] == -1
  assert evals.score("coco_detection", [""], [{**_ROW, "boxes": [], "labels": []}])["map"] == -1


@pytest.mark.parametrize("bins", [1023, 1024])
def test_the_convention_matters_by_half_a_bin(bins):
  box = (0.1, 0.2, 0.85, 0.95)
  row = {"boxes": [box], "labels": ["cat"], "height": 5000, "width": 5000}
  text = loc.format_boxes([box], ["cat"], bins=bins)
  assert evals.score("coco_detection", [text], [row], bins=bins)["map"] == pytest.approx(1)


def _output(pieces):
  """An output of (text, probability) tokens."""
  ends = np.cumsum([len(text) for text, _ in pieces]).tolist()
  return evals.Output(
    0,
    text="".join(text for text, _ in pieces),
    tokens=tuple(range(len(pieces))),
    token_logprobs=tuple(math.log(p) for _, p in pieces),
    token_ends=tuple(ends),
  )


def test_confidence_is_the_likelihood_of_the_label_s_tokens():
  locs = [(f"<loc{i:04d}>", 0.3) for i in (0, 0, 512, 512)]
  predicted = _output([
      *locs, (" traffic", 0.5), (" light", 0.8), (" ;", 0.9), (" ", 0.7),
      *locs, (" ", 0.6), ("<seg127>", 0.25), (" ; ", 0.5),
      *locs, (" ;", 0.2), (" <loc0001>", 0.1), (" x ;", 0.1),
      *locs, (" cat", 0.125), ("", 0.5),
  ])  # fmt: skip
  found = detection.label_likelihoods(predicted, bins=1024)
  # Two tokens; one (the space before it is no label); none: the last of the box; one, without eos.
  assert found == pytest.approx([0.4, 0.25, 0.3, 0.125])
  assert len(loc.parse_boxes(predicted.text, bins=1024).boxes) == len(found)
  assert detection.label_likelihoods(evals.Output(0), bins=1024) == []


def test_the_evaluator_ranks_by_the_model_s_own_likelihood():
  evaluator = evals.CocoDetection("val/map", source=None, banned=("<eos>",))
  assert evaluator.columns() == ("boxes", "labels", "height", "width")
  assert "crowd" in evaluator.replace(crowd="crowd").columns()
  right, wrong = _tokens(_LEFT), _tokens(_RIGHT)
  row = {**_ROW, "boxes": [_LEFT], "labels": ["cat"]}
  for confidence, expected in ((0.9, 1.0), (0.1, 0.5)):
    predicted = _output([*wrong, (" cat", 0.5), (" ; ", 1.0), *right, (" cat", confidence)])
    assert evaluator.score([row], [predicted])["map"] == pytest.approx(expected)


def _tokens(box):
  return [(f"<loc{loc.to_token(v, bins=1024):04d}>", 0.5) for v in box]


def test_each_class_has_its_own_precision_if_asked_for():
  texts = [_text((_LEFT, "cat"), (_LEFT, "dog"), (_LEFT, "bird"))]
  found = evals.score("coco_detection", texts, [_ROW], by_class=True)
  # The cat is found; the dog is elsewhere; there is no bird.
  assert {k: v for k, v in found.items() if k.startswith("ap")} == {
    "ap/cat": pytest.approx(1),
    "ap/dog": 0.0,
    "ap50/cat": pytest.approx(1),
    "ap50/dog": 0.0,
  }
  assert found["map"] == pytest.approx(0.5)
  assert not any(k.startswith("ap") for k in evals.score("coco_detection", texts, [_ROW]))


def test_a_results_file_is_as_coco_s_tools_read_it():
  evaluator = evals.CocoDetection(
    "val/map", source=None, image_id="id", categories=(("cat", 17), ("dog", 18))
  )
  assert evaluator.columns() == ("boxes", "labels", "height", "width", "id")
  rows = [{**_ROW, "id": np.int64(139)}, {**_ROW, "id": 285}]
  predicted = _output([
      *_tokens((0.25, 0.5, 0.75, 1.0)), (" dog", 0.25), (" ; ", 1.0),
      *_tokens(_LEFT), (" cta", 0.5),
  ])  # fmt: skip
  outputs = [predicted, evals.Output(1, text="")]
  assert evaluator.score(rows, outputs)["unknown"] == 1
  (text,) = evaluator.files(rows, outputs).values()
  # x, y, width, height in an image of 100 x 200; the last token is 1023, of 1024 bins.
  (result,) = json.loads(text)
  assert {k: result[k] for k in ("image_id", "category_id", "score")} == {
    "image_id": 139,
    "category_id": 18,
    "score": pytest.approx(0.25),
  }
  assert result["bbox"] == pytest.approx([100, 25, 100 - 200 / 1024, 50], abs=1e-3)
  plain = evaluator.replace(categories=())
  assert [r["category"] for r in json.loads(*plain.files(rows, outputs).values())] == ["dog", "cta"]
  assert "unknown" not in plain.score(rows, outputs)
  assert evaluator.replace(image_id="").files(rows, outputs) == {}
  with pytest.raises(errors.ConfigError, match=r"pairs of a label and a whole number"):
    evaluator.replace(categories=("cat",))


@pytest.mark.parametrize(
  "box",
  [(10, 10, 50, 50), (0.5, 0.5, 0.1, 0.1), (0.1, 0.5, 0.5, 0.1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)],
)
def test_true_boxes_in_pixels_or_upside_down_are_refused(box):
  row = {**_ROW, "boxes": [_LEFT, box]}
  with pytest.raises(errors.DataError, match=r"Row 0.*'boxes': The box .* must be \(y_min, x_min"):
    evals.score("coco_detection", [""], [row])


def test_boxes_of_a_suffix_score_as_the_columns_do():
  # The suffix is the target: a perfect prediction has map 1, one without its second object 0.5.
  suffix = _text((_LEFT, "cat"), (_RIGHT, "dog"))
  image = np.zeros((100, 200, 3), np.uint8)
  row = pp.ParseBoxes(bins=1024)({"image": image, "suffix": suffix}, None)
  assert (row["height"], row["width"], row["labels"]) == (100, 200, ["cat", "dog"])
  assert evals.score("coco_detection", [suffix], [row])["map"] == pytest.approx(1)
  assert evals.score("coco_detection", [_text((_LEFT, "cat"))], [row])["map"] == pytest.approx(0.5)
  known = {"image": image, "suffix": "", "height": 7, "width": 9}
  row = pp.ParseBoxes(bins=1024)(known, None)
  assert (row["height"], row["width"], row["boxes"], row["labels"]) == (7, 9, [], [])
  for wrong in ("cat", "<loc0900><loc0000><loc0001><loc0001> cat", "<loc0001><loc0002> cat"):
    with pytest.raises(errors.DataError, match="column 'suffix': expected boxes as in"):
      pp.ParseBoxes(bins=1024)({"image": image, "suffix": wrong}, None)
  with pytest.raises(errors.ConfigError, match="1023 and 1024"):
    pp.ParseBoxes(bins=1000)


@pytest.mark.parametrize(
  ("change", "hint"),
  [
    ({"labels": ["cat"]}, "'boxes'.* one entry per label"),
    ({"boxes": "x"}, "'boxes'"),
    ({"boxes": [(0, 0, 1, float("nan"))] * 2}, "'boxes'"),
    ({"labels": 3}, "'labels'"),
    ({"width": 0}, "'width' holds 0 pixels"),
    ({"height": None}, "'height'"),
    ({"crowd": [1]}, "'crowd'"),
  ],
)
def test_a_wrong_truth_is_named(change, hint):
  row = {**_ROW, "crowd": [0, 0], **change}
  with pytest.raises(errors.DataError, match=hint):
    evals.score("coco_detection", [""], [row], crowd="crowd")


def test_there_must_be_a_score_for_every_box():
  with pytest.raises(errors.DataError, match="1 readable boxes but 2 scores"):
    evals.score("coco_detection", [_text((_LEFT, "cat"))], [_ROW], scores=[[1, 2]])


def test_scores_stay_with_their_prediction_where_rows_are_drawn():
  texts = [_text((_LEFT, "cat")), _text((_LEFT, "cat"), (_RIGHT, "dog"))]
  rows, scores = [_ROW] * 2, [[0.5], [0.9, 0.2]]
  found = evals.score("coco_detection", texts, rows, scores=scores, bootstrap=20)
  assert 0 < found["map/low"] <= found["map"] <= found["map/high"] <= 1
  with pytest.raises(errors.DataError, match="2 predictions but 1 scores"):
    evals.score("coco_detection", texts, rows, scores=scores[:1])
