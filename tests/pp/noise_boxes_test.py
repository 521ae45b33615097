"""Noise boxes: what is true is learned whole, of noise only that it is noise."""

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizer_lib
from paligemma_jax.regions import loc
from tests import golden_files
from tests.data import encoding

_ROW = {
  "boxes": np.array([(0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.9, 0.9), (0, 0, 1, 1)], np.float32),
  "labels": ["cat", "dog", "sky"],
  "crowd": [0, 0, 1],
}
_OP = pp.NoiseBoxes(bins=1024, total=9, crowd="crowd")


def _made(seed=0, op=_OP, row=_ROW):
  return op(row, np.random.default_rng(seed))["suffix"]


def _text(pieces):
  return "".join(text for text, _ in pieces)


def test_true_objects_come_first_in_any_order_and_noise_fills_up():
  orders = set()
  for seed in range(20):
    logged = loc.parse_boxes(_text(_made(seed)), bins=1024)
    assert logged.num_invalid == 0 and len(logged.boxes) == 9
    orders.add(logged.labels[:2])
    assert logged.labels[2:] == ("<seg127>",) * 7
    for box, label in zip(logged.boxes[:2], logged.labels[:2], strict=True):
      true = _ROW["boxes"][_ROW["labels"].index(label)]
      np.testing.assert_allclose(box, true, rtol=0, atol=0.5 / 1024 + 1e-6)
    assert all(b.y_min <= b.y_max and b.x_min <= b.x_max for b in logged.boxes)
  assert orders == {("cat", "dog"), ("dog", "cat")}
  assert _made(3) == _made(3) != _made(4)


def test_only_the_coordinates_of_noise_are_not_learned():
  tokenizer = tokenizer_lib.Tokenizer(golden_files.path("bv/tok4k.model"))
  pieces = _made()
  example = encoding.train(tokenizer, "detect", pieces, text_len=200, overflow="error")
  whole = encoding.train(tokenizer, "detect", _text(pieces), text_len=200, overflow="error")
  np.testing.assert_array_equal(example["text"], whole["text"])
  is_loc = np.isin(example["text"], [tokenizer.loc_id(i) for i in range(1024)])
  assert is_loc.sum() == 36 and example["mask_loss"][is_loc].tolist() == [1] * 8 + [0] * 28
  others = (whole["mask_loss"] == 1) & ~is_loc
  assert example["mask_loss"][others].all()
  assert example["mask_loss"].sum() == whole["mask_loss"].sum() - 28


def test_noise_lies_near_true_boxes_and_anywhere():
  row = {"boxes": [(0.45, 0.45, 0.55, 0.55)], "labels": ["cat"]}
  op = pp.NoiseBoxes(bins=1024, total=400)
  boxes = np.array(loc.parse_boxes(_text(_made(op=op, row=row)), bins=1024).boxes)[1:]
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  near = (np.abs(centres - 0.5) < 0.06).all(axis=1).mean()
  assert 0.45 < near < 0.65
  assert centres.std(axis=0).min() > 0.1 and (boxes[:, 2:] > boxes[:, :2]).mean() > 0.95


@pytest.mark.parametrize(
  ("total", "boxes", "expected"),
  [(0, 2, ("cat", "dog")), (2, 2, ("cat", "dog")), (2, 0, ("<seg127>",) * 2), (0, 0, ())],
)
def test_there_may_be_no_noise_or_nothing_else(total, boxes, expected):
  row = {"boxes": _ROW["boxes"][:boxes], "labels": _ROW["labels"][:boxes]}
  pieces = _made(op=pp.NoiseBoxes(bins=1024, total=total), row=row)
  logged = loc.parse_boxes(_text(pieces), bins=1024)
  assert sorted(logged.labels) == sorted(expected) and logged.num_invalid == 0


@pytest.mark.parametrize(
  ("change", "hint"),
  [
    ({"labels": ["cat"]}, "'boxes' 3, 'labels' 1"),
    ({"crowd": [0]}, "'labels' 3, 'crowd' 1"),
    ({"boxes": "x"}, "'boxes'"),
    ({"boxes": [(0, 0, 1)] * 3}, "four numbers"),
    ({"labels": ["a;b", "c", "d"], "crowd": [0] * 3}, "without ';'"),
  ],
)
def test_a_wrong_row_is_rejected(change, hint):
  with pytest.raises(errors.DataError, match=hint):
    _made(row={**_ROW, **change})


def test_wrong_fields_are_named():
  assert _OP.needs() == ("boxes", "labels", "crowd") and _OP.makes() == ("suffix",)
  with pytest.raises(errors.ConfigError, match="1023 and 1024"):
    pp.NoiseBoxes(bins=1000, total=3)
  with pytest.raises(errors.ConfigError, match="total"):
    pp.NoiseBoxes(bins=1024, total=-1)


def test_marks_of_crowds_may_be_texts():
  row = {"boxes": [(0, 0, 0.5, 0.5)] * 3, "labels": ["a", "b", "c"], "crowd": ["0", "1", 0.0]}
  op = pp.NoiseBoxes(bins=1024, total=0, crowd="crowd")
  ((text, _),) = op(row, np.random.default_rng(0))["suffix"]
  assert sorted(part.split()[-1] for part in text.split(" ; ")) == ["a", "c"]
  with pytest.raises(errors.DataError, match="crowd is 'maybe'"):
    op({**row, "crowd": ["maybe", 0, 0]}, np.random.default_rng(0))
