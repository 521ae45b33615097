"""Masks of rows to text: the reference's op, several objects, and rows that hold no mask."""

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from tests.regions import mask_codec_test

RNG = np.random.default_rng(0)
MASK = np.zeros((100, 200), bool)
MASK[20:60, 50:150] = True
BOX = (0.2, 0.25, 0.6, 0.75)


def test_one_object_is_its_box_and_codes_in_the_convention_asked_for():
  codec = mask_codec.open_codec()
  for bins, last in ((1023, 767), (1024, 768)):
    text = pp.MaskToText(bins=bins)({"mask": MASK, "box": BOX}, RNG)["suffix"]
    assert text == seg.masks_to_text([MASK], [BOX], [""], codec=codec, bins=bins)
    assert text.startswith(f"<loc0205><loc0256><loc0614><loc0{last}><seg") and text.count("<") == 20


def test_several_objects_are_joined_with_their_labels():
  op = pp.MaskToText(mask="masks", box="", labels="names", out="answer")
  assert op.needs() == ("masks", "names") and op.makes() == ("answer",)
  other = np.roll(MASK, 30, axis=0)
  text = op({"masks": [MASK, other], "names": ["cat", "dog"]}, RNG)["answer"]
  found = seg.text_to_masks(text, 100, 200, codec=mask_codec.open_codec(), bins=1023)
  assert [f.label for f in found] == ["cat", "dog"]
  assert found[1].mask[60:80].any() and not found[0].mask[65:].any()
  assert op({"masks": [], "names": []}, RNG)["answer"] == ""
  assert op({"masks": [MASK] * 2, "names": "cat"}, RNG)["answer"].count("cat") == 2


def test_a_codec_of_one_s_own_writes_other_codes(tmp_path):
  path = tmp_path / "own.npz"
  mask_codec.write(path, mask_codec_test.weights(0, **mask_codec_test.SMALL))
  row = {"mask": MASK, "box": BOX}
  own = pp.MaskToText(codec=str(path))(row, RNG)["suffix"]
  assert own[:36] == pp.MaskToText()(row, RNG)["suffix"][:36]
  assert max(int(own[i + 4 : i + 7]) for i in range(36, len(own), 8)) < 9


@pytest.mark.parametrize(
  ("row", "hint"),
  [
    ({"mask": 3, "box": BOX}, "column 'mask'"),
    ({"mask": [MASK], "box": 3}, "column 'box'"),
    ({"mask": [MASK, MASK], "box": [BOX]}, "2 masks, 1 boxes"),
    ({"mask": MASK, "box": (0, 0, 1)}, "four numbers"),
    ({"mask": MASK}, "'box' is missing"),
  ],
)
def test_a_row_without_a_mask_is_rejected(row, hint):
  with pytest.raises(errors.DataError, match=hint):
    pp.MaskToText()(row, RNG)


def test_objects_that_are_too_small_are_left_out_of_several_counted_and_never_all():
  big, small = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
  big[10:30, 10:30] = True
  boxes = [(10 / 48, 10 / 64, 30 / 48, 30 / 64), (0.2125, 0.1594, 0.2167, 0.1625)]
  row = {"masks": [big, small], "boxes": boxes, "labels": ["cat", "dog"]}
  fields = dict(mask="masks", box="boxes", labels="labels", bins=1024)
  found = pp.MaskToText(**fields)(row, None)
  alone = pp.MaskToText(**fields)({**row, **{k: v[:1] for k, v in row.items()}}, None)
  assert found["suffix"] == alone["suffix"] and found["suffix"].endswith("cat")
  assert found["_notes"] == ("tiny_masks_dropped",) and "_notes" not in alone
  # Its box is large enough, but no pixel of it is set.
  row = {**row, "boxes": [boxes[0], boxes[0]]}
  assert pp.MaskToText(**fields)(row, None)["suffix"] == alone["suffix"]
  with pytest.raises(errors.DataError, match=r"mask 2 of 2 \('dog'\)"):
    pp.MaskToText(**fields, tiny="error")(row, None)
  with pytest.raises(errors.DataError, match="all 2 masks"):
    pp.MaskToText(**fields)({**row, "masks": [small, small]}, None)
  with pytest.raises(errors.ConfigError, match="tiny"):
    pp.MaskToText(tiny="keep")
