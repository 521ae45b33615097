"""Segmentation by hand and against a plain second account of the reference's rules."""

import io

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import evals
from paligemma_jax.core import errors
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg

_CODEC = mask_codec.open_codec()
_FULL = "".join(f"<seg{c:03d}>" for c in _CODEC.encode(np.ones((1, 64, 64), bool))[0])


def _row(y_min, x_min, y_max, x_max, height=100, width=200):
  mask = np.zeros((height, width), bool)
  mask[y_min:y_max, x_min:x_max] = True
  return {"mask": mask, "box": (y_min / height, x_min / width, y_max / height, x_max / width)}


def test_a_full_box_that_fits_scores_nearly_one():
  row = _row(20, 50, 60, 150)
  text = "<loc0205><loc0256><loc0614><loc0767>" + _FULL + " cat"
  result = evals.score("segmentation", [text], [row])
  assert result["miou"] > 0.93 and result["boxacc/0.75"] == result["boxacc/0.5"] == 1
  assert (result["invalid"], result["total"]) == (0, 1)


def test_the_score_is_the_reference_s_rules_step_by_step():
  rng = np.random.default_rng(0)
  texts, rows, expected = [], [], []
  for _ in range(20):
    height, width = (int(v) for v in rng.integers(30, 90, 2))
    mask = rng.random((height, width)) < 0.4
    y, x = np.sort(rng.choice(1024, 2, False)), np.sort(rng.choice(1024, 2, False))
    codes = rng.integers(0, 128, 16)
    texts.append(
        f"<loc{y[0]:04d}><loc{x[0]:04d}><loc{y[1]:04d}><loc{x[1]:04d}>"
        + "".join(f"<seg{c:03d}>" for c in codes) + " and more"
    )  # fmt: skip
    rows.append({"mask": mask, "box": (0.1, 0.1, 0.9, 0.9)})
    # int(v / 1023 * size): truncated; then decoded, resized, above 0, against the whole mask.
    (y0, y1), (x0, x1) = ([int(v / 1023 * s) for v in p] for p, s in ((y, height), (x, width)))
    drawn = np.zeros((height, width), bool)
    if y1 > y0 and x1 > x0:
      square = Image.fromarray(_CODEC.decode(codes[None])[0])
      resized = square.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
      drawn[y0:y1, x0:x1] = np.asarray(resized) > 0
    expected.append((drawn & mask).sum() / (drawn | mask).sum())
  found = [evals.score("segmentation", [t], [r])["miou"] for t, r in zip(texts, rows, strict=True)]
  # Pillow's own arithmetic may decide a pixel of value about 0 the other way.
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
  total = evals.score("segmentation", texts, rows)["miou"]
  assert total == pytest.approx(np.mean(found), rel=0, abs=1e-12)


@pytest.mark.parametrize(
  ("text", "boxacc"),
  [
    ("", 0),
    ("<loc0205><loc0256><loc0614><loc0767> cat", 0),
    ("cat <loc0205><loc0256><loc0614><loc0767>" + _FULL, 0),
    ("<loc0614><loc0256><loc0205><loc0767>" + _FULL, 0),
    ("<loc0205><loc0256><loc0614><loc0767>" + _FULL.replace("<seg", "<sag", 1), 0),
  ],
)
def test_an_invalid_text_scores_nothing_and_is_counted(text, boxacc):
  good = "<loc0205><loc0256><loc0614><loc0767>" + _FULL
  rows = [_row(20, 50, 60, 150)] * 2
  result = evals.score("segmentation", [good, text], rows)
  alone = evals.score("segmentation", [good], rows[:1])
  assert (result["invalid"], result["total"]) == (1, 2)
  assert result["miou"] == pytest.approx(alone["miou"] / 2, rel=1e-12)
  assert result["boxacc/0.5"] == (1 + boxacc) / 2


def _num_painted(text):
  segment = seg.parse(text, codec=_CODEC, bins=1023)
  square = _CODEC.decode(np.array([segment.codes]))[0]
  return int(seg.paint(square, segment.box, 100, 200).sum())


def test_ciou_is_the_ratio_of_sums():
  # As papers on RefCOCO sum up: what is common in all rows by what is in either mask in all rows,
  # an unreadable prediction being an empty mask. True masks of 40 x 100, 40 x 100 and 50 x 200
  # pixels: the first is met but for what the codec loses, all within it; the second is not met at
  # all; for the third there is no prediction.
  rows = [_row(20, 50, 60, 150), _row(0, 0, 40, 100), _row(50, 0, 100, 200)]
  near = "<loc0205><loc0256><loc0614><loc0767>" + _FULL
  far = "<loc0512><loc0512><loc1023><loc1023>" + _FULL
  result = evals.score("segmentation", [near, far, "nothing"], rows)
  either = 4000 + (4000 + _num_painted(far)) + 10_000
  assert result["ciou"] == pytest.approx(_num_painted(near) / either, rel=1e-12)
  alone = evals.score("segmentation", [near], rows[:1])
  assert alone["ciou"] == alone["miou"] == pytest.approx(_num_painted(near) / 4000, rel=1e-12)


def test_a_mask_may_be_a_file_and_its_box_may_be_left_to_it():
  row = _row(20, 50, 60, 150)
  buffer = io.BytesIO()
  Image.fromarray(row["mask"]).save(buffer, "PNG")
  text = seg.masks_to_text([row["mask"]], [None], [""], codec=_CODEC, bins=1024)
  from_array = evals.score("segmentation", [text], [row], bins=1024)
  from_file = evals.score(
    "segmentation", [text], [{"m": buffer.getvalue()}], mask="m", box="", bins=1024
  )
  assert from_array == from_file and from_file["boxacc/0.75"] == 1


def test_the_evaluator_scores_texts_and_knows_a_baseline():
  evaluator = evals.Segmentation("val/seg", source=None, max_len=22)
  assert evaluator.columns() == ("mask", "box")
  assert evaluator.replace(box="").columns() == ("mask",)
  rows = [_row(20, 50, 60, 150), _row(0, 0, 40, 100)]
  texts = [seg.masks_to_text([r["mask"]], [r["box"]], [""], codec=_CODEC, bins=1023) for r in rows]
  outputs = [evals.Output(i, text=t) for i, t in enumerate(texts)]
  assert evaluator.score(rows, outputs)["miou"] > 0.9
  trivial = evaluator.baseline(rows)
  assert 0.1 < trivial["miou"] < 0.7 and trivial["invalid"] == 0
  assert evaluator.baseline([])["total"] == 0


@pytest.mark.parametrize(
  ("row", "options", "hint"),
  [
    ({"mask": "x", "box": (0, 0, 1, 1)}, {}, "column 'mask'"),
    ({"mask": np.ones((4, 4), bool), "box": (0, 0, 1)}, {}, "column 'box'"),
    ({"mask": np.zeros((4, 4), bool)}, {"box": ""}, "Row 0"),
    ({"maks": 1}, {}, "'maks'"),
  ],
)
def test_a_wrong_truth_is_named(row, options, hint):
  with pytest.raises(errors.DataError, match=hint):
    evals.score("segmentation", [""], [row], **options)


def test_the_convention_must_be_one_of_the_two():
  with pytest.raises(errors.ConfigError, match="1023 and 1024"):
    evals.Segmentation("val/seg", source=None, bins=1000)
