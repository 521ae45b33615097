"""COCO files: boxes, masks and crowds as written; whatever is wrong is named with its place."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.sources import annotated_images
from tests.miniatures import images

_RUNS = {"size": [10, 20], "counts": [0, 50, 150]}


def _content():
  return {
      "images": [
          {"id": 7, "file_name": "a.jpg", "height": 10, "width": 20},
          {"id": 3, "file_name": "sub/b.jpg"},
      ],
      "categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "traffic light"}],
      "annotations": [
          {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 1, 6, 4], "area": 20.5,
           "iscrowd": 0, "segmentation": [[2, 1, 8, 1, 8, 5, 2, 5]]},
          {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 10], "area": 50,
           "iscrowd": 1, "segmentation": _RUNS},
      ],
  }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  images.write(tmp_path / "images" / "a.jpg", images.jpeg(0, (20, 10)))
  images.write(tmp_path / "images" / "sub" / "b.jpg", images.jpeg(1, (6, 8)))
  return tmp_path


def _open(folder, content, **fields):
  (folder / "ann.json").write_text(content if isinstance(content, str) else json.dumps(content))
  return sources.Coco(str(folder / "ann.json"), images=str(folder / "images"), **fields).open()


def test_rows_are_what_the_file_says(folder):
  rows = pickle.loads(pickle.dumps(_open(folder, _content())))
  first, second = rows[0], rows[1]
  assert len(rows) == 2 and tuple(first) == sources.Coco("x").makes()
  assert (first["image_id"], first["image_path"]) == (7, "a.jpg")
  assert first["image"] == images.jpeg(0, (20, 10))
  assert (first["height"], first["width"]) == (10, 20)
  assert first["labels"] == ["traffic light", "cat"]
  np.testing.assert_allclose(first["boxes"], [(0.1, 0.1, 0.5, 0.4), (0, 0, 1, 0.25)])
  assert (first["areas"], first["crowd"]) == ([20.5, 50.0], [False, True])
  assert (second["boxes"], second["labels"]) == ([], [])
  assert (second["height"], second["width"]) == (8, 6)
  with pytest.raises(IndexError):
    rows[2]


def test_masks_come_from_polygons_and_runs_and_crowds_can_be_left_out(folder):
  row = _open(folder, _content(), masks=True)[0]
  polygon, runs = row["masks"]
  expected = np.zeros((10, 20), bool)
  expected[1:5, 2:8] = True
  np.testing.assert_array_equal(polygon, expected)
  np.testing.assert_array_equal(runs, np.arange(20)[None] < np.full((10, 1), 5))
  assert _open(folder, _content(), crowd=False)[0]["labels"] == ["traffic light"]


def test_a_fingerprint_follows_the_content(folder):
  first = _open(folder, _content()).fingerprint()
  assert _open(folder, _content()).fingerprint() == first
  assert _open(folder, _content(), masks=True).fingerprint() != first
  changed = _content()
  changed["annotations"][0]["bbox"][0] += 1
  assert _open(folder, changed).fingerprint() != first


def test_a_box_that_sticks_out_is_cut_and_counted(folder):
  content = _content()
  content["annotations"][0]["bbox"] = [15, 5, 9, 2]
  row = _open(folder, content)[0]
  np.testing.assert_allclose(row["boxes"][0], (0.5, 0.75, 0.7, 1))
  assert row["_notes"] == ("boxes_clipped",)
  content["annotations"][0]["bbox"] = [15, 5, 5.5, 2]  # Rounding, no more.
  assert "_notes" not in _open(folder, content)[0]


def _put(path, value):
  def change(content):
    *above, last = path
    for key in above:
      content = content[key]
    content[last] = value

  return change


@pytest.mark.parametrize(
  ("change", "hint"),
  [
    (_put(["annotations", 0, "bbox"], [1, 2, 3]), r"image 7 \('a.jpg'\): annotations\[0\]: "),
    (_put(["annotations", 0, "bbox"], [1, 2, 3, "four"]), "expected a number"),
    (_put(["annotations", 0, "bbox"], [1, 2, float("nan"), 4]), "expected a number"),
    (_put(["annotations", 0, "bbox"], [1, 2, -3, 4]), "minimum above"),
    (_put(["annotations", 0, "bbox"], [100, 2, 3, 4]), "outside the image"),
    (_put(["annotations", 0, "category_id"], 5), "category_id 5"),
    (_put(["annotations", 0, "category_id"], [5]), "category_id"),
    (_put(["annotations", 0, "area"], "big"), "area"),
    (_put(["annotations", 0, "segmentation"], [[1, 2]]), "three points"),
    (_put(["annotations", 1, "segmentation"], {"size": [9, 20], "counts": [9]}), "run lengths"),
    (_put(["annotations", 0, "segmentation"], None), "no mask"),
    (_put(["images", 0, "width"], 21), "says 21 x 10 pixels .*file has 20 x 10"),
    (_put(["images", 0, "file_name"], "../ann.json"), "without '..'"),
    (_put(["images", 0, "file_name"], "/etc/passwd"), "must be relative"),
    (_put(["images", 0, "file_name"], "sub"), "Is a directory"),
    (_put(["images", 0, "file_name"], "link.jpg"), "through a symlink"),
    (_put(["images", 0, "file_name"], "gone.jpg"), "is not in"),
  ],
)
def test_a_bad_row_is_rejected_with_its_place(folder, change, hint):
  os.symlink("/etc/hostname", folder / "images" / "link.jpg")
  content = _content()
  change(content)
  rows = _open(folder, content, masks=True)
  with pytest.raises(errors.DataError, match=hint):
    rows[0]
  assert rows[1]["labels"] == []  # The others are still good.


@pytest.mark.parametrize(
  ("change", "hint"),
  [
    (
      lambda c: [a.update(image_id=8) for a in c["annotations"]],
      r"none of the 2 annotations .*annotations\[0\] is of image_id 8",
    ),
    (_put(["images", 1, "id"], 7), r"images\[1\] has id 7"),
    (_put(["categories", 1, "name"], None), r"categories\[1\]"),
    (_put(["annotations"], {}), "expected a list 'annotations', found dict"),
    (_put(["images", 0], 3), r"images\[0\] is a int"),
    (lambda c: c.pop("categories"), "'categories'"),
  ],
)
def test_a_file_of_another_format_is_an_error_when_it_is_opened(folder, change, hint):
  content = _content()
  change(content)
  with pytest.raises(errors.DataError, match=hint):
    _open(folder, content)


def test_what_is_no_json_or_not_there_is_named(folder):
  with pytest.raises(errors.DataError, match=r"ann\.json is no JSON: .*line 2"):
    _open(folder, '{\n"images": [')
  with pytest.raises(errors.DataError, match="no JSON"):
    _open(folder, "[" * 100_000)
  with pytest.raises(errors.ConfigError, match=r"gone\.json"):
    sources.Coco(str(folder / "gone.json")).open()


def test_annotations_of_images_that_are_not_in_the_file_are_left_out_with_a_warning(folder, caplog):
  content = _content()
  content["annotations"].append({**content["annotations"][0], "id": 3, "image_id": 99})
  rows = _open(folder, content)
  assert rows[0]["labels"] == ["traffic light", "cat"]
  assert "1 of 3 annotations are left out" in caplog.text and "image_id 99" in caplog.text


def test_ids_numbers_flags_and_lists_that_are_written_as_texts(folder):
  plain = _open(folder, _content(), masks=True)[0]
  content = json.loads(json.dumps(_content()))
  for annotation in content["annotations"]:
    for key in ("image_id", "category_id", "iscrowd", "area"):
      annotation[key] = str(annotation[key])
    for key in ("bbox", "segmentation"):
      annotation[key] = json.dumps(annotation[key])
  content["images"][0].update(height="10", width=20.0)
  rows = _open(folder, "\ufeff" + json.dumps(content), masks=True)
  np.testing.assert_equal(rows[0], plain)
  assert _open(folder, content, crowd=False)[0]["labels"] == ["traffic light"]
  content["annotations"][1]["iscrowd"] = "perhaps"
  with pytest.raises(errors.DataError, match=r"annotations\[1\]: iscrowd is 'perhaps'; expected 0"):
    _open(folder, content)[0]


def test_lvis_names_images_by_their_url(folder):
  content = _content()
  content["images"][0]["coco_url"] = "http://example.org/val2017/" + content["images"][0].pop(
    "file_name"
  )
  assert _open(folder, content)[0]["image_path"] == "a.jpg"


def test_run_lengths_in_a_list_and_a_polygon_that_is_no_list_of_polygons(folder):
  plain = _open(folder, _content(), masks=True)[0]["masks"]
  content = _content()
  content["annotations"][0]["segmentation"] = content["annotations"][0]["segmentation"][0]
  content["annotations"][1]["segmentation"] = [_RUNS]
  np.testing.assert_array_equal(_open(folder, content, masks=True)[0]["masks"], plain)
  content["annotations"][1]["segmentation"] = [_RUNS, _RUNS]
  with pytest.raises(errors.DataError, match="a list of 2 run lengths"):
    _open(folder, content, masks=True)[0]


@pytest.mark.parametrize(
  "change",
  [
    _put(["annotations", 0, "bbox"], [1, 2, -3, 4]),
    _put(["annotations", 0, "bbox"], None),
    _put(["annotations", 0, "category_id"], 5),
    _put(["annotations", 0, "segmentation"], [[1, 2]]),
    _put(["annotations", 0, "segmentation"], []),
  ],
)
def test_one_bad_annotation_can_be_left_out_counted_and_named(folder, change, caplog):
  annotated_images._logged.clear()
  content = _content()
  change(content)
  row = _open(folder, content, masks=True, bad_annotations="skip")[0]
  assert row["labels"] == ["cat"] and len(row["boxes"]) == len(row["masks"]) == 1
  assert row["_notes"] == ("annotations_skipped",)
  assert "image 7 ('a.jpg')" in caplog.text
  with pytest.raises(errors.ConfigError, match="bad_annotations"):
    _open(folder, content, bad_annotations="ignore")


def test_what_the_file_says_of_the_picture_must_be_so(folder):
  content = _content()
  content["images"][0].update(height=20, width=10)
  with pytest.raises(errors.DataError, match=r"says 10 x 20 .* The sides are swapped"):
    _open(folder, content)[0]
  content["images"][0].update(height=None, width=0)  # Says nothing.
  assert _open(folder, content)[0]["height"] == 10
  for annotation in content["annotations"]:
    annotation["bbox"] = [0.1, 0.2, 0.5, 0.5]
  with pytest.raises(errors.DataError, match="like fractions of the image; COCO has pixels"):
    _open(folder, content)[0]


def test_a_size_that_fits_the_picture_in_no_way_names_exif(folder):
  exif = Image.Exif()
  exif[0x112] = 6
  Image.new("RGB", (20, 10)).save(folder / "images" / "a.jpg", exif=exif)
  stored = _open(folder, _content())  # Its file says 20 x 10: as stored.
  assert (stored[0]["width"], stored[0]["_exif"]) == (20, False)
  with pytest.raises(errors.DataError, match=r"20 x 10 as stored.*EXIF orientation 6.*exif=True"):
    _open(folder, _content(), exif=True)[0]
  with pytest.raises(errors.ConfigError, match="expected True, False or 'auto'"):
    _open(folder, _content(), exif="yes")
