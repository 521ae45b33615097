"""YOLO folders: both kinds of labels, the ways to name a split, and hostile files."""

import pickle

import numpy as np
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.miniatures import images

_YAML = "path: .\ntrain: images/train\nval: [images/val, extra.txt]\nnames:\n  0: cat\n  1: dog\n"


@pytest.fixture
def folder(tmp_path):
  for name in ("train/a2.jpg", "train/a10.png", "val/c.jpg", "more/d.jpg"):
    images.write(tmp_path / "images" / name, images.jpeg(0, (20, 10)))
  images.write(tmp_path / "images" / "train" / "readme.md", b"x")
  images.write(
      tmp_path / "labels" / "train" / "a2.txt",
      b"1 0.5 0.5 0.2 0.4\n\n0 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n",
  )
  images.write(tmp_path / "labels" / "val" / "c.txt", b"")
  images.write(tmp_path / "extra.txt", b"./images/more/d.jpg\n")
  images.write(tmp_path / "data.yaml", _YAML.encode())
  return tmp_path


def _rows(folder, yaml=None, **fields):
  if yaml is not None:
    (folder / "data.yaml").write_text(yaml)
  return sources.Yolo(str(folder / "data.yaml"), **fields).open()


def test_rows_are_the_images_with_what_their_label_files_say(folder):
  rows = pickle.loads(pickle.dumps(_rows(folder)))
  row = rows[0]
  assert [rows[i]["image_path"] for i in range(len(rows))] == [
      "images/train/a2.jpg", "images/train/a10.png"
  ]  # fmt: skip
  assert tuple(row) == sources.Yolo("x").makes()
  assert row["labels"] == ["dog", "cat"] and row["crowd"] == [False, False]
  np.testing.assert_allclose(row["boxes"], [(0.3, 0.4, 0.7, 0.6), (0.1, 0.1, 0.5, 0.4)])
  np.testing.assert_allclose(row["areas"], [16, 24])
  assert (row["height"], row["width"]) == (10, 20)
  assert rows[1]["boxes"] == []  # No label file.
  val = _rows(folder, split="val")
  paths = [val[i]["image_path"] for i in range(len(val))]
  assert paths == ["images/val/c.jpg", "images/more/d.jpg"]


def test_outlines_become_masks_and_boxes_alone_do_not(folder):
  (folder / "labels" / "train" / "a2.txt").write_text("0 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5")
  (mask,) = _rows(folder, masks=True)[0]["masks"]
  expected = np.zeros((10, 20), bool)
  expected[1:5, 2:8] = True
  np.testing.assert_array_equal(mask, expected)
  (folder / "labels" / "train" / "a2.txt").write_text("1 0.5 0.5 0.2 0.4")
  with pytest.raises(errors.DataError, match="has no mask"):
    _rows(folder, masks=True)[0]


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nnames: [cat, dog]\n",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']\n",
        "path: images\ntrain: train/\nnames:\n- cat\n- dog\n",
        "train: ./images/train\nnames: {0: cat, 1: dog}\n",
    ],
)
def test_the_ways_tools_write_a_data_yaml(folder, yaml):
  rows = _rows(folder, yaml)
  assert len(rows) == 2 and rows[0]["labels"] == ["dog", "cat"]


def test_a_root_of_one_s_own_takes_the_place_of_the_file_s_path(folder):
  yaml = "path: /data/elsewhere\ntrain: images/train\nnames: [a, b]"
  rows = _rows(folder, yaml, root=str(folder))
  assert rows[0]["labels"] == ["b", "a"]


@pytest.mark.parametrize(
    ("yaml", "hint"),
    [
        ("train: images/train\nnames: []", "names must be"),
        ("train: images/train\nnames: {a: cat}", "names must be"),
        ("train: images/train", "names must be"),
        ("train: /etc\nnames: [a]", "must be relative"),
        ("train: ../../etc\nnames: [a]", "without '..'"),
        ("train: gone\nnames: [a]", "'gone' is not in"),
        ("train: [[3]]\nnames: [a]", "expected the path"),
        ("path: /etc\ntrain: x\nnames: [a]", "Set Yolo.root"),
        ("path: ..\ntrain: x\nnames: [a]", "Set Yolo.root"),
        ("[1, 2]", "expected a data.yaml"),
        ("a: [", "is no data.yaml"),
        ("names: !!python/object/apply:os.system ['touch x']", "is no data.yaml"),
        ("a: &a [x]\nb: *a\n", "an alias"),
        ("[" * 100, "nest"),
    ],
)
def test_a_wrong_or_hostile_data_yaml_is_named(folder, yaml, hint):
  with pytest.raises(errors.DataError, match=hint) as caught:
    _rows(folder, yaml)
  assert "data.yaml" in str(caught.value)


def test_an_unknown_or_empty_split_is_a_configuration_error(folder):
  with pytest.raises(errors.ConfigError, match="'train'"):
    _rows(folder, split="trian")
  with pytest.raises(errors.ConfigError, match="'test' is empty"):
    _rows(folder, _YAML + "test:\n", split="test")
  with pytest.raises(errors.ConfigError, match=r"gone\.yaml"):
    sources.Yolo(str(folder / "gone.yaml")).open()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("2 0.5 0.5 0.2 0.4", r"labels/train/a2\.txt:1: class 2"),
        ("0.5 0.5 0.5 0.2 0.4", "class 0.5"),
        ("0 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2", r"a2\.txt:2: 3 numbers"),
        ("0 0.5 0.5 0.2 0.4 0.1", "5 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers"),
        ("0 12 40 8 9", "shares of the picture"),
        ("0 nan 0.5 0.2 0.4", "shares of the picture"),
        ("cat 0.5 0.5 0.2 0.4", r"a2\.txt:1: b'cat"),
        ("0 0.5 0.5 -0.2 0.4", "shares of the picture"),
        ("\x00", "no number"),
    ],
)
def test_a_bad_label_is_named_with_file_and_line(folder, line, hint):
  (folder / "labels" / "train" / "a2.txt").write_text(line)
  rows = _rows(folder)
  with pytest.raises(errors.DataError, match=hint) as caught:
    rows[0]
  assert "images/train/a2.jpg" in str(caught.value)
  assert rows[1]["labels"] == []


def test_links_and_lists_do_not_lead_out(folder, tmp_path_factory):
  outside = tmp_path_factory.mktemp("outside")
  (outside / "x.jpg").write_bytes(images.jpeg(0, (4, 4)))
  (folder / "images" / "train" / "a1.jpg").symlink_to(outside / "x.jpg")
  with pytest.raises(errors.DataError, match="symlink"):
    _rows(folder, unlabelled="empty")[0]
  (folder / "images" / "train" / "a1.jpg").unlink()
  (folder / "images" / "train" / "more").symlink_to(outside)
  with pytest.raises(errors.DataError, match="symlink"):
    _rows(folder)
  (folder / "extra.txt").write_text(f"{outside}/x.jpg\n")
  with pytest.raises(errors.DataError, match="must be relative"):
    _rows(folder, split="val")[1]
  (folder / "labels" / "val" / "c.txt").unlink()
  (folder / "labels" / "val" / "c.txt").symlink_to("/etc/hostname")
  with pytest.raises(errors.DataError, match="symlink"):
    _rows(folder, split="val")[0]
