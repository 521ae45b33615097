"""Scenes: the same every time, right to the pixel, and honest about what is held out."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from paligemma_jax.sources import scenes

NUM = 240


def _rows(num=NUM, **fields):
  rows = scenes.Scenes(num_rows=num, **fields).open()
  return [rows[i] for i in range(num)]


def test_a_row_depends_on_spec_and_number_alone():
  first = scenes.Scenes(num_rows=10).open()
  again = pickle.loads(pickle.dumps(scenes.Scenes(num_rows=10_000_000).open()))
  for i in (9, 0, 4):  # Order of access must not matter.
    a, b = first[i], again[i]
    for name in ("image", "mask"):
      np.testing.assert_array_equal(a.pop(name), b.pop(name))
    assert a == b


def test_columns_and_shapes_are_as_said():
  for size in (112, 224):
    source = scenes.Scenes(num_rows=3, size=size)
    rows = source.open()
    for row in (rows[i] for i in range(len(rows))):
      assert tuple(row) == source.makes()
      assert row["image"].shape == (size, size, 3) and row["image"].dtype == np.uint8
      assert row["mask"].shape == (size, size) and row["mask"].dtype == bool
  with pytest.raises(IndexError):
    rows[3]


def test_boxes_are_exact(monkeypatch):
  """The pixels that differ from the bare background are those of the boxes, to the last one."""
  monkeypatch.setattr(
    scenes, "_background", lambda rng, size: np.full((size, size, 3), 255, np.uint8)
  )
  ink = scenes.Sprite
  monkeypatch.setattr(scenes, "get", _solid(scenes.get, ink))
  for row in _rows(60):
    drawn = row["image"].min(axis=2) < 128
    covered = np.zeros_like(drawn)
    for _, box in row["objects"]:
      y0, x0, y1, x1 = (round(v * 112) for v in box)
      inside = drawn[y0:y1, x0:x1]
      assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
      covered[y0:y1, x0:x1] = True
    assert not (drawn & ~covered).any()


def _solid(get, make):
  """`scenes.get`, but black where the mask is set and clear elsewhere."""

  def solid(name, *, side, flip):
    mask = get(name, side=side, flip=flip).mask
    keep = np.where(mask, 0, 256).astype(np.uint16)[..., None]
    return make(keep, np.zeros((*mask.shape, 3), np.uint16), mask)

  return solid


def test_every_drawing_fills_its_box_and_boxes_are_disjoint():
  for name, flip in itertools.product(scenes.names("all"), (False, True)):
    mask = scenes.get(name, side=42, flip=flip).mask
    assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()
    assert 40 <= max(mask.shape) <= 42
  for row in _rows():
    covered = np.zeros((112, 112), int)
    for _, box in row["objects"]:
      y0, x0, y1, x1 = (round(v * 112) for v in box)
      covered[y0:y1, x0:x1] += 1
    assert covered.max() == 1


def test_the_warmup_rows_are_captions_of_one_drawing_and_the_rest_is_as_without():
  plain, warm = _rows(40), _rows(40, warmup=20)
  assert all(r["task"] == "caption" and len(r["objects"]) == 1 for r in warm[:20])
  assert {r["task"] for r in plain[:20]} == {"caption", "count", "detect"}
  for a, b in zip(plain[20:], warm[20:], strict=True):
    np.testing.assert_array_equal(a["image"], b["image"])
    assert a["suffix"] == b["suffix"]


def test_drawing_keeps_opaque_colours_and_clear_background():
  sprite = scenes.get("frog", side=40, flip=False)
  opaque, clear = sprite.keep[..., 0] == 0, sprite.keep[..., 0] == 256
  background = np.full((*sprite.mask.shape, 3), 200, np.uint8)
  drawn = (background * sprite.keep + sprite.paint) >> 8
  assert opaque.sum() > 400 and (drawn[clear] == 200).all()
  np.testing.assert_array_equal(drawn[opaque], sprite.paint[opaque] >> 8)
  assert (background.astype(int) * sprite.keep + sprite.paint).max() < 2**16


def test_answers_are_right():
  for row in _rows():
    names = [name for name, _ in row["objects"]]
    if row["task"] == "count":
      assert row["suffix"] == str(names.count(row["label"]))
    elif row["task"] == "detect":
      logged = loc.parse_boxes(row["suffix"], bins=scenes.BINS)
      assert logged.labels == row["labels"] == (row["label"],)
      np.testing.assert_allclose(logged.boxes, row["boxes"], rtol=0, atol=1 / 1024)
      assert (row["label"], row["boxes"][0]) in row["objects"]
      assert names.count(row["label"]) == 1
    else:
      assert row["suffix"] == _caption(row["objects"])
      assert row["label"] == ""


def test_segment_answers_are_the_mask_of_the_one_drawing_asked_for():
  codec = mask_codec.open_codec()
  ious = []
  for row in _rows(24, tasks=("segment",)):
    mask = row["mask"]
    text = seg.masks_to_text(
      [mask], [row["boxes"][0]], [row["label"]], codec=codec, bins=scenes.BINS
    )
    assert row["suffix"] == text
    assert seg.least_box(mask) == row["boxes"][0] and row["labels"] == (row["label"],)
    assert (row["label"], row["boxes"][0]) in row["objects"]
    assert [name for name, _ in row["objects"]].count(row["label"]) == 1
    found = seg.text_to_masks(text, 112, 112, codec=codec, bins=scenes.BINS)[0]
    ious.append((found.mask & mask).sum() / (found.mask | mask).sum())
  assert np.mean(ious) > 0.8
  assert not any(row["mask"].any() for row in _rows(9))


def test_the_mask_is_what_was_drawn(monkeypatch):
  monkeypatch.setattr(
    scenes, "_background", lambda rng, size: np.full((size, size, 3), 255, np.uint8)
  )
  monkeypatch.setattr(scenes, "get", _solid(scenes.get, scenes.Sprite))
  for row in _rows(30, tasks=("segment",)):
    drawn = row["image"].min(axis=2) < 128
    y0, x0, y1, x1 = (round(v * 112) for v in row["boxes"][0])
    np.testing.assert_array_equal(drawn[y0:y1, x0:x1], row["mask"][y0:y1, x0:x1])


def _caption(objects):
  """The caption, worked out another way: sort all drawings by centre, name each class once."""
  by_place = sorted(objects, key=lambda o: o[1][1] + o[1][3])
  names = [name for name, _ in by_place]
  words = {1: "a", 2: "two", 3: "three", 4: "four"}
  parts = []
  for name in dict.fromkeys(names):
    num = names.count(name)
    word = "an" if num == 1 and name[0] in "aeiou" else words[num]
    parts.append(f"{word} {name}" + "s" * (num > 1))
  return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]


def test_no_prompt_holds_its_answer():
  for prompts in scenes.PROMPTS:
    for row in _rows(prompts=prompts, tasks=scenes.TASKS):
      assert not any(c.isdigit() for c in row["prefix"])
      if row["task"] == "caption":
        assert row["prefix"] == scenes.PROMPTS[prompts]["caption"]
      else:
        assert row["prefix"] == scenes.PROMPTS[prompts][row["task"]].format(row["label"])


def test_every_count_is_asked_about_as_often_and_is_not_the_number_of_drawings():
  rows = _rows(1200, tasks=("count",))
  answers = [int(row["suffix"]) for row in rows]
  assert all(0.2 < answers.count(n) / len(rows) < 0.3 for n in (1, 2, 3, 4))
  alone = sum(n == len(row["objects"]) for n, row in zip(answers, rows, strict=True)) / len(rows)
  assert alone < 0.45


def test_splits_and_seeds_share_no_scene():
  streams = [dict(split=s, seed=n) for s in ("train", "val", "test") for n in (0, 1)]
  seen = [{row["image"].tobytes() for row in _rows(**fields)} for fields in streams]
  assert sum(map(len, seen)) == len(set().union(*seen)) == NUM * len(streams)


def test_held_out_classes_are_never_in_pretraining():
  assert (len(scenes.names("base")), len(scenes.names("heldout"))) == (64, 12)
  assert not set(scenes.names("base")) & set(scenes.names("heldout"))
  for classes in ("base", "heldout"):
    drawn = {name for row in _rows(classes=classes) for name, _ in row["objects"]}
    assert drawn <= set(scenes.names(classes))
    assert len(drawn) == len(scenes.names(classes))


def test_the_demo_words_its_questions_differently():
  pretrain, demo = ({t for t in scenes.PROMPTS[p].values()} for p in ("pretrain", "demo"))
  assert not pretrain & demo


def test_a_fingerprint_follows_the_spec():
  assert scenes.Scenes().open().fingerprint() == scenes.Scenes().open().fingerprint()
  assert scenes.Scenes().open().fingerprint() != scenes.Scenes(seed=1).open().fingerprint()


def test_a_fingerprint_follows_the_codec_where_it_is_used(monkeypatch, tmp_path):
  (tmp_path / "other.npz").write_bytes(b"another codec")
  plain, masks = scenes.Scenes().open(), scenes.Scenes(tasks=("segment",)).open()
  before = plain.fingerprint(), masks.fingerprint()
  monkeypatch.setattr(mask_codec, "EMBEDDED", tmp_path / "other.npz")
  assert plain.fingerprint() == before[0] and masks.fingerprint() != before[1]


@pytest.mark.parametrize(
  "source, fields, hint",
  [
    (scenes.Scenes, dict(classes="held_out"), "'heldout'"),
    (scenes.Scenes, dict(prompts="pretrian"), "'pretrain'"),
    (scenes.Scenes, dict(tasks=("captions",)), "'caption'"),
    (scenes.Scenes, dict(tasks=()), "caption, count, detect"),
    (scenes.Scenes, dict(size=20), "56"),
    (scenes.Scenes, dict(warmup=-1), "warmup=-1 must be from 0"),
    (sources.Masks, dict(classes="held_out"), "'heldout'"),
    (sources.Masks, dict(simple=2.0), "simple"),
    (sources.Masks, dict(num_rows=-1), "-1"),
  ],
)
def test_a_wrong_field_is_an_error_that_names_the_right_one(source, fields, hint):
  with pytest.raises(errors.ConfigError, match=hint):
    source(**fields)


def test_the_spec_survives_json():
  source = scenes.Scenes(split="val", tasks=("count",), classes="heldout")
  assert spec.from_json(spec.to_json(source)) == source


def _masks(num=120, **fields):
  rows = sources.Masks(num_rows=num, **fields).open()
  return [rows[i] for i in range(num)]


def test_a_mask_depends_on_spec_and_number_alone():
  first = sources.Masks(num_rows=9).open()
  again = pickle.loads(pickle.dumps(sources.Masks(num_rows=10**7).open()))
  for i in (8, 0, 3):
    np.testing.assert_array_equal(first[i]["mask"], again[i]["mask"])
  assert (first[0]["mask"].shape, first[0]["mask"].sum()) != (
    sources.Masks(num_rows=9, seed=1).open()[0]["mask"].shape,
    sources.Masks(num_rows=9, seed=1).open()[0]["mask"].sum(),
  )
  with pytest.raises(IndexError):
    first[9]


def test_masks_touch_all_four_sides_and_are_not_tiny():
  for row in _masks():
    mask = row["mask"]
    assert mask.dtype == bool and min(mask.shape) >= 8
    assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()
    assert tuple(row) == sources.Masks().makes()


def test_drawings_are_those_of_the_split_and_simple_shapes_their_share():
  labels = [row["label"] for row in _masks(400)]
  simple = [label in ("polygon", "ellipse") for label in labels]
  assert 0.17 < np.mean(simple) < 0.33
  assert set(labels) <= {*scenes.names("base"), "polygon", "ellipse"}
  plain = _masks(24, classes="heldout", simple=0.0, vary=False)
  assert [row["label"] for row in plain] == list(scenes.names("heldout")) * 2


def test_the_spec_of_masks_survives_json_and_its_fingerprint_follows_it():
  source = sources.Masks("held_out", classes="heldout", simple=0.0)
  assert spec.from_json(spec.to_json(source)) == source
  assert source.open().fingerprint() == source.open().fingerprint()
  assert source.open().fingerprint() != sources.Masks().open().fingerprint()
