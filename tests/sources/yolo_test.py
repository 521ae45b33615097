"""YOLO folders: both kinds of labels, the ways to name a split, and hostile files."""

import pickle

import numpy as np
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.sources import annotated_images
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
    ("0 12 40 8 9", "fractions of the image"),
    ("0 nan 0.5 0.2 0.4", "fractions of the image"),
    ("cat 0.5 0.5 0.2 0.4", r"a2\.txt:1: b'cat"),
    ("0 0.5 0.5 -0.2 0.4", "fractions of the image"),
    ("\x00", "expected numbers"),
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


def test_classes_are_called_what_the_file_says(folder):
  (folder / "labels" / "train" / "a2.txt").write_text(
    "".join(f"{i} 0.5 0.5 0.2 0.4\n" for i in range(6))
  )
  yaml = "train: images/train\nnames: [no, yes, on, 010, null, 1_000]\n"
  assert _rows(folder, yaml)[0]["labels"] == ["no", "yes", "on", "010", "null", "1_000"]
  yaml = "train: images/train\nnames: {0: no, 1: yes, 2: ~, 3: 1.0, 4: 1e3, 5: 'off'}\n"
  assert _rows(folder, yaml)[0]["labels"] == ["no", "yes", "~", "1.0", "1e3", "off"]


def test_labels_of_a_folder_that_is_not_called_images_are_found(folder):
  (folder / "images").rename(folder / "imgs")
  rows = _rows(folder, "train: imgs/train\nnames: [cat, dog]\n")
  assert rows[0]["labels"] == ["dog", "cat"]
  (folder / "labels").rename(folder / "Labels")
  assert _rows(folder)[0]["labels"] == ["dog", "cat"]
  (folder / "Labels" / "train" / "a2.txt").rename(folder / "imgs" / "train" / "A2.TXT")
  assert _rows(folder)[0]["labels"] == ["dog", "cat"]


def test_pictures_without_labels_are_an_error_where_they_are_most(folder):
  (folder / "labels" / "train" / "a2.txt").unlink()
  with pytest.raises(errors.DataError) as caught:
    _rows(folder)
  logged = str(caught.value)
  assert "none of the 2 images" in logged and "'labels/train/a2.txt'" in logged
  assert "unlabelled='empty'" in logged and "'images/train/a10.png'" in logged
  assert _rows(folder, unlabelled="empty")[0]["labels"] == []
  with pytest.raises(errors.ConfigError, match="unlabelled"):
    _rows(folder, unlabelled="fine")


def test_folders_in_folders_capital_endings_and_formats_that_are_not_read(folder, caplog):
  for name in ("sub/b.JPG", "sub/deep/c.jfif", "sub/d.gif", "e.TIFF"):
    images.write(folder / "images" / "train" / name, images.jpeg(0, (20, 10)))
    images.write((folder / "labels" / "train" / name).with_suffix(".txt"), b"0 .5 .5 .2 .2\n")
  images.write(folder / "images" / "train" / "f.avif", b"x")
  images.write(folder / "images" / "train" / "g.HEIC", b"x")
  rows = _rows(folder)
  paths = {rows[i]["image_path"]: rows[i]["labels"] for i in range(len(rows))}
  assert paths == {
      "images/train/a2.jpg": ["dog", "cat"], "images/train/a10.png": [],
      "images/train/e.TIFF": ["cat"], "images/train/sub/b.JPG": ["cat"],
      "images/train/sub/d.gif": ["cat"], "images/train/sub/deep/c.jfif": ["cat"],
  }  # fmt: skip
  assert "2 images are left out" in caplog.text and "f.avif, g.HEIC" in caplog.text


def test_names_that_are_not_utf_8(folder):
  name = b"caf\xe9.jpg"
  with open(bytes(folder / "images" / "train") + b"/" + name, "wb") as f:
    f.write(images.jpeg(0, (20, 10)))
  with open(bytes(folder / "labels" / "train") + b"/caf\xe9.txt", "wb") as f:
    f.write(b"0 .5 .5 .2 .2\n")
  images.write(folder / "extra.txt", b"images/train/" + name + b"\n")
  rows = _rows(folder, split="val")
  assert rows[1]["labels"] == ["cat"] and rows.digests() and rows.fingerprint()


def test_keypoints_behind_a_box_are_left_out(folder):
  line = "0 0.5 0.5 0.2 0.4 0.45 0.45 2 0.55 0.45 2\n"
  (folder / "labels" / "train" / "a2.txt").write_text(line)
  yaml = "train: images/train\nkpt_shape: [2, 3]\nnames: [cat]\n"
  np.testing.assert_allclose(_rows(folder, yaml)[0]["boxes"], [(0.3, 0.4, 0.7, 0.6)])
  with pytest.raises(errors.DataError, match=r"10 numbers .*kpt_shape .* 4 of a box and 4"):
    _rows(folder, yaml.replace("3]", "2]"))[0]
  with pytest.raises(errors.DataError, match="kpt_shape is 'x'"):
    _rows(folder, yaml.replace("[2, 3]", "x"))


def test_one_bad_label_can_be_left_out_counted_and_named(folder, caplog):
  annotated_images._logged.clear()
  lines = "0 0.5 0.5 0.2 0.4\n9 0.5 0.5 0.2 0.4\nx\n0 12 3 4 5\n"
  (folder / "labels" / "train" / "a2.txt").write_text(lines)
  row = _rows(folder, bad_annotations="skip")[0]
  assert row["labels"] == ["cat"] and row["_notes"] == ("annotations_skipped",)
  assert "a2.txt:2: class 9" in caplog.text and "a2.txt:4" in caplog.text
