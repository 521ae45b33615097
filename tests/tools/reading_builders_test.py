"""What the builders of benchmarks for reading do beyond copying: turning, splitting, permuting."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from paligemma_jax.core import errors
from tests.miniatures import gqa
from tests.miniatures import images
from tests.miniatures import ocrvqa
from tests.miniatures import stvqa
from tests.miniatures import textvqa
from tools.prepare import infovqa as infovqa_builder
from tools.prepare import ocrvqa as ocrvqa_builder
from tools.prepare import raw as raw_lib
from tools.prepare import stvqa as stvqa_builder
from tools.prepare import textvqa as textvqa_builder


def pixels(data):
  return np.asarray(PIL.Image.open(io.BytesIO(data))).astype(int)


def test_pictures_that_openimages_says_are_rotated_are_turned_counterclockwise(tmp_path):
  textvqa.make(tmp_path)
  splits = textvqa_builder.splits(raw_lib.Raw(tmp_path, "https://example.org"))
  seen = set()
  for split, records in splits.items():
    folder = "test_images" if split == "test" else "train_val_images/train_images"
    for record in records:
      image_id = record["image_id"]
      original = (tmp_path / folder / f"{image_id}.jpg").read_bytes()
      rotation = textvqa.ROTATION.get(image_id, "0.0")
      if rotation in ("", "0.0"):  # Untouched, bytes and all.
        assert record["image"].read() == original
        continue
      quarters = int(float(rotation)) // 90
      turned = np.rot90(pixels(original), quarters)
      # Encoded once more, in the best quality: within a few levels.
      np.testing.assert_allclose(pixels(record["image"].read()), turned, rtol=0, atol=12)
      assert np.abs(pixels(record["image"].read()) - turned).mean() < 2
      seen.add(quarters)
  assert seen == {1, 3}


def test_a_picture_that_openimages_does_not_list_is_an_error(tmp_path):
  textvqa.make(tmp_path)
  path = tmp_path / "test-images-with-rotation.csv"
  lines = path.read_text().splitlines()
  path.write_text("\n".join(line for line in lines if "9cbf9ba7d1cdb3c1" not in line) + "\n")
  with pytest.raises(errors.DataError, match=r"no line for 1 images: 9cbf9ba7d1cdb3c1"):
    textvqa_builder.splits(raw_lib.Raw(tmp_path, "https://example.org"))


@pytest.mark.parametrize(
  ("answers", "expected"),
  [
    (["a, b"], ["a, b", "b, a"]),
    (["a, b", "b, a"], ["a, b", "b, a"]),
    (["1,000"], ["1,000"]),
    (["4", "a, b"], ["4", "a, b", "b, a"]),
    ([], []),
  ],
)
def test_what_a_comma_and_a_blank_part_counts_in_any_order(answers, expected):
  # The reference's rule, whatever type of answer the row has: itertools.permutations of
  # answer.split(', '); the same text twice says nothing more.
  assert infovqa_builder.all_orders(answers) == expected


def test_an_answer_of_very_many_spans_keeps_its_order():
  assert len(infovqa_builder.all_orders([", ".join("abcdefg")])) == 5040
  many = ", ".join("abcdefgh")
  assert infovqa_builder.all_orders([many]) == [many]


def test_a_list_of_images_says_what_val_is(tmp_path):
  stvqa.make(tmp_path)
  images.write(tmp_path / "val_images.txt", b"visual-genome/2317985.jpg\n")
  splits = stvqa_builder.splits(raw_lib.Raw(tmp_path, "https://example.org"))
  assert [r["question_id"] for r in splits["val"]] == [2, 3]
  assert [r["question_id"] for r in splits["train"]] == [1, 4, 5, 6]
  images.write(tmp_path / "val_images.txt", b"visual-genome/2317986.jpg\n")
  with pytest.raises(errors.DataError, match=r"2317986\.jpg.*2317985\.jpg"):
    stvqa_builder.splits(raw_lib.Raw(tmp_path, "https://example.org"))


def test_val_is_about_a_tenth_of_the_images_and_never_shares_one_with_train():
  paths = {f"visual-genome/{i}.jpg" for i in range(5000)}
  raw = raw_lib.Raw("/nowhere", "https://example.org")
  in_val = stvqa_builder._in_val(raw, paths)
  assert in_val < paths and 450 < len(in_val) < 550
  assert stvqa_builder._in_val(raw, set(sorted(paths)[:100])) <= in_val


def test_coco_pictures_are_taken_large_where_they_are_there_and_small_ones_told(tmp_path, capsys):
  stvqa.make(tmp_path)
  splits = stvqa_builder.splits(raw_lib.Raw(tmp_path, "https://example.org"))
  (large,) = [r for r in splits["train"] if r["question_id"] == 1]
  assert pixels(large["image"].read()).shape == (72, 96, 3)
  (small,) = [r for r in splits["test"] if r["question_id"] == 7]
  assert pixels(small["image"].read()).shape == (36, 48, 3)
  assert "1 images of COCO-Text are as small" in capsys.readouterr().err


def test_covers_that_are_gone_are_left_out_and_told(tmp_path, capsys):
  ocrvqa.make(tmp_path)
  raw = raw_lib.Raw(tmp_path, "https://example.org")
  splits = ocrvqa_builder.splits(raw)
  assert "1 of 5 covers are not in" in capsys.readouterr().err
  assert {r["image_id"] for r in splits["train"]} == {"761183272", "1449407366"}
  for path in (tmp_path / "images").iterdir():
    path.unlink()
  raw = raw_lib.Raw(tmp_path, "https://example.org")  # One looks into a folder once.
  with pytest.raises(errors.ConfigError, match=r"images/761183272\.jpg.*https://example\.org"):
    ocrvqa_builder.splits(raw)


def test_keys_can_be_left_out_while_a_file_is_read(tmp_path):
  gqa.make(tmp_path)
  raw = raw_lib.Raw(tmp_path, "https://example.org")
  whole = json.loads((tmp_path / "val_balanced_questions.json").read_text())
  lean = raw.json("val_balanced_questions.json", without=("semantic", "types"))
  assert lean.keys() == whole.keys()
  for key, row in whole.items():
    assert lean[key] == {k: v for k, v in row.items() if k not in ("semantic", "types")}
