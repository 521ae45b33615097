"""RefCOCO's builder: masks are the objects' own, and what is not as expected is named."""

import pickle

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from tests.miniatures import images
from tests.miniatures import refcoco_seg as miniature
from tools.prepare import __main__ as prepare
from tools.prepare import build


def _rows(name, split, tmp_path):
  miniature.make(tmp_path / "raw")
  (dataset,) = prepare.datasets_of(f"refcoco_seg/{name}")
  build.write(dataset, tmp_path / "raw", tmp_path / "data")
  rows = sources.Tfds(f"refcoco_seg/{name}", split, data_dir=str(tmp_path / "data")).open()
  return [rows[i] for i in range(len(rows))]


def test_masks_fill_their_boxes_and_become_text(tmp_path):
  (row,) = [r for r in _rows("combined", "train", tmp_path) if r["image_id"] == 1]
  masks = [seg.as_mask(m) for m in row["masks"]]
  assert seg.least_box(masks[0]) == pytest.approx(row["boxes"][0], abs=1e-6)
  assert [int(m.sum()) for m in masks] == [20 * 12, 12 * 12]
  ops = (
    pp.Choice(("masks", "boxes", "sentences"), ("mask", "box", "refs")),
    pp.Split("refs"),
    pp.Choice("refs", "prefix", each_once=False),
    pp.MaskToText(),
  )
  seen = set()
  for epoch in range(6):
    made = {**row, "_seed": 0, "_row": 0, "_epoch": epoch}
    for op in ops:
      made = op(made, np.random.default_rng(epoch))
    box = seg.parse(made["suffix"], codec=mask_codec.open_codec(), bins=1023).box
    which = 0 if made["prefix"] != "small dog" else 1
    assert box == pytest.approx(row["boxes"][which], abs=0.5 / 1023 + 1e-6)
    seen.add(made["prefix"])
  assert "small dog" in seen and len(seen) >= 2


@pytest.mark.parametrize(
  ("change", "hint"),
  [
    ({"ann_id": 99}, "reference 0 is not as expected: KeyError: 99"),
    ({"sentences": []}, "reference 0"),
    ({"sentences": [{"sent": 3, "sent_id": 1}]}, "reference 0"),
    ({"split": None}, "reference 0"),
  ],
)
def test_a_wrong_reference_is_named(tmp_path, change, hint):
  miniature.make(tmp_path / "raw")
  path = tmp_path / "raw" / "refcoco" / "refs(unc).p"
  refs = pickle.loads(path.read_bytes())
  images.write(path, pickle.dumps([{**refs[0], **change}, *refs[1:]]))
  (dataset,) = prepare.datasets_of("refcoco_seg/refcoco")
  with pytest.raises(errors.DataError, match=f"refcoco: {hint}"):
    build.write(dataset, tmp_path / "raw", tmp_path / "data")
