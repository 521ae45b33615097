"""Pascal VOC folders: boxes by pixel, splits, masks by number, and XML that must not be trusted."""

import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import sources
from paligemma_jax.core import errors
from tests.miniatures import images

_OBJECT = (
  "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
  "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def _xml(*objects, filename="a.jpg"):
  inside = "".join(_OBJECT.format(*o) for o in objects)
  return f"<annotation>\n<filename>{filename}</filename>\n{inside}</annotation>".encode()


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / "VOC2007"
  for name in ("a", "b"):
    images.write(root / "JPEGImages" / f"{name}.jpg", images.jpeg(0, (20, 10)))
  images.write(
    root / "Annotations" / "a.xml", _xml(("dog", 0, 3, 2, 8, 5), ("cat", 1, 1, 1, 20, 10))
  )
  images.write(root / "Annotations" / "b.xml", _xml(filename="C:\\photos\\b.jpg"))
  images.write(root / "ImageSets" / "Main" / "train.txt", b"b\r\na\r\n")
  images.write(root / "ImageSets" / "Main" / "dog_val.txt", b"a  1\nb -1\n")
  numbers = np.zeros((10, 20), np.uint8)
  numbers[1:5, 2:8], numbers[6:, :], numbers[5, :] = 1, 2, 255
  buffer = io.BytesIO()
  image = Image.fromarray(numbers)
  image.putpalette(range(256 * 3 // 3))
  image.save(buffer, "PNG")
  images.write(root / "SegmentationObject" / "a.png", buffer.getvalue())
  return root


def test_rows_are_those_of_the_list_and_boxes_count_pixels_from_one(folder):
  rows = pickle.loads(pickle.dumps(sources.Voc(str(folder)).open()))
  assert [rows[i]["image_id"] for i in range(len(rows))] == ["b", "a"]
  assert rows[0]["labels"] == [] and rows[0]["image_path"] == "b.jpg"
  row = rows[1]
  assert tuple(row) == sources.Voc("x").makes()
  assert (row["labels"], row["crowd"]) == (["dog", "cat"], [False, True])
  np.testing.assert_allclose(row["boxes"], [(0.1, 0.1, 0.5, 0.4), (0, 0, 1, 1)])
  assert row["areas"] == [24, 200]
  edges = sources.Voc(str(folder), first_pixel=0).open()[1]["boxes"]
  np.testing.assert_allclose(edges[0], (0.2, 0.15, 0.5, 0.4))


def test_splits_are_lists_lists_of_a_class_or_everything(folder):
  for split, expected in (("dog_val", ["a"]), ("Main/dog_val", ["a"]), ("", ["a", "b"])):
    rows = sources.Voc(str(folder), split).open()
    assert [rows[i]["image_id"] for i in range(len(rows))] == expected


def test_masks_are_the_pixels_of_an_object_s_number(folder):
  dog, cat = sources.Voc(str(folder), "dog_val", masks=True).open()[0]["masks"]
  expected = np.zeros((10, 20), bool)
  expected[1:5, 2:8] = True
  np.testing.assert_array_equal(dog, expected)
  assert cat[6:].all() and not cat[:6].any()
  with pytest.raises(errors.DataError, match=r"b\.png"):
    sources.Voc(str(folder), masks=True).open()[0]


_BOMB = (
  b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
  b"<annotation><filename>&b;</filename></annotation>"
)
_FILE = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
  ("content", "hint"),
  [
    (_BOMB, "document type"),
    (_FILE, "document type"),
    (b"<annotation>&nbsp;</annotation>", "no XML"),
    (b"<annotation>\n<object>", r"line 2: no XML"),
    (b"", "no XML"),
    (b"\xff\xfe\x00", "no XML"),
    (b'<?xml version="1.0" encoding="nonsense"?><a/>', "no XML"),
    (b"<a>" * 40, "nested deeper"),
    (_xml(("", 0, 1, 1, 2, 2)), "line 3: object 1: it has no name"),
    (b"<annotation><object><name>x</name></object></annotation>", "has no bndbox"),
    (_xml(("dog", 0, "one", 1, 2, 2)), "xmin is 'one'"),
    (_xml(("dog", 0, 1, "nan", 2, 2)), "ymin is 'nan'"),
    (_xml(("dog", 0, 9, 1, 2, 2)), "minimum above"),
    (_xml(("dog", 0, 100, 1, 200, 2)), "outside the image"),
  ],
)
def test_a_bad_or_hostile_annotation_is_named(folder, content, hint):
  images.write(folder / "Annotations" / "a.xml", content)
  rows = sources.Voc(str(folder)).open()
  with pytest.raises(errors.DataError, match=hint) as caught:
    rows[1]
  assert "Annotations/a.xml" in str(caught.value)
  assert rows[0]["labels"] == []


def test_a_file_name_cannot_lead_out_of_the_images(folder):
  images.write(folder / "Annotations" / "a.xml", _xml(filename="../Annotations/a.xml"))
  assert sources.Voc(str(folder)).open()[1]["image_path"] == "a.jpg"
  images.write(folder / "ImageSets" / "Main" / "bad.txt", b"../../secret\na\n")
  with pytest.raises(errors.DataError, match=r"without '\.\.'"):
    sources.Voc(str(folder), "bad").open()[0]


def test_what_is_not_there_is_a_configuration_error(folder):
  with pytest.raises(errors.ConfigError, match=r"ImageSets/Main/trian\.txt"):
    sources.Voc(str(folder), "trian").open()
  with pytest.raises(errors.ConfigError, match="Annos"):
    sources.Voc(str(folder), "", annotations="Annos").open()
  with pytest.raises(errors.ConfigError, match="0 or 1"):
    sources.Voc(str(folder), first_pixel=2)


def _row(folder, name, *, xml, picture, split=""):
  images.write(folder / "JPEGImages" / picture, images.jpeg(0, (20, 10)))
  images.write(folder / "Annotations" / f"{name}.xml", xml)
  rows = sources.Voc(str(folder), split).open()
  return {rows[i]["image_id"]: rows[i] for i in range(len(rows))}[name]


@pytest.mark.parametrize(
  ("name", "named", "picture"),
  [
    ("x", "x", "x.png"),
    ("x", "x.jpg", "x.JPG"),
    ("x", "", "x.jpeg"),
    ("x", "y.png", "x.webp"),
    ("x", "Y.PNG", "y.png"),
    ("sub/x", "x.jpg", "sub/x.jpg"),
    ("sub/x", "x.jpg", "x.jpg"),
    ("sub/x", "elsewhere.jpg", "Sub/x.gif"),
  ],
)
def test_a_picture_is_found_by_its_stem_whatever_its_ending(folder, name, named, picture):
  assert _row(folder, name, xml=_xml(filename=named), picture=picture)["image_path"] == picture


def test_two_pictures_of_one_stem_are_a_choice_and_none_is_an_error(folder):
  images.write(folder / "JPEGImages" / "x.webp", images.jpeg(0, (20, 10)))
  with pytest.raises(errors.DataError, match=r"'JPEGImages/x\.png' or 'JPEGImages/x\.webp'"):
    _row(folder, "x", xml=_xml(filename="x"), picture="x.png")
  (folder / "Annotations" / "x.xml").unlink()
  with pytest.raises(errors.DataError, match=r"there is no image 'z\.bmp', 'y\.jpg'"):
    _row(folder, "y", xml=_xml(filename="z.bmp"), picture="x.webp")


def test_names_of_a_list_may_hold_blanks_endings_and_bytes(folder):
  for name in ("my cat", "my big cat", "cat 1", "b"):
    images.write(folder / "JPEGImages" / f"{name}.jpg", images.jpeg(0, (20, 10)))
    images.write(folder / "Annotations" / f"{name}.xml", _xml())
  with open(bytes(folder / "Annotations") + b"/caf\xe9.xml", "wb") as f:
    f.write(_xml())
  with open(bytes(folder / "JPEGImages") + b"/caf\xe9.jpg", "wb") as f:
    f.write(images.jpeg(0, (20, 10)))
  lines = b"\xef\xbb\xbfmy cat\nmy big cat  1\ncat 1\ncat 1 -1\nB.jpg\ncaf\xe9\n"
  images.write(folder / "ImageSets" / "Main" / "train.txt", lines)
  rows = sources.Voc(str(folder)).open()
  expected = ["my cat", "my big cat", "cat 1", "b", os.fsdecode(b"caf\xe9")]
  assert [rows[i]["image_id"] for i in range(len(rows))] == expected


def test_a_list_of_which_little_is_there_is_an_error_with_the_place(folder):
  images.write(folder / "ImageSets" / "Main" / "train.txt", b"a\nx\ny\n")
  with pytest.raises(errors.DataError, match=r"1 of the 3 names .*'Annotations/x\.xml'"):
    sources.Voc(str(folder)).open()


def test_what_the_annotation_says_of_the_picture_must_be_so(folder):
  size = b"<size><width>{}</width><height>{}</height></size></annotation>".decode()

  def row(width, height):
    xml = _xml(("dog", 0, 3, 2, 8, 5)).replace(
      b"</annotation>", size.format(width, height).encode()
    )
    return _row(folder, "a", xml=xml, picture="a.jpg")

  assert row(20, 10)["labels"] == row(0, 0)["labels"] == row("", "")["labels"] == ["dog"]
  with pytest.raises(errors.DataError, match=r"<size> says 10 x 20.*The sides are swapped"):
    row(10, 20)
  with pytest.raises(errors.DataError, match="<size> says 640 x 480"):
    row(640, 480)
  xml = _xml(("dog", 0, 0.1, 0.2, 0.5, 0.5))
  with pytest.raises(errors.DataError, match="like fractions of the image; VOC has pixels"):
    _row(folder, "a", xml=xml, picture="a.jpg")


def test_one_bad_object_can_be_left_out_and_difficult_is_a_yes_or_no(folder):
  xml = _xml(("dog", "True", 3, 2, 8, 5), ("cat", 0, 9, 9, 2, 2), ("cow", "", 1, 1, 2, 2))
  images.write(folder / "Annotations" / "a.xml", xml)
  row = sources.Voc(str(folder), bad_annotations="skip").open()[1]
  assert (row["labels"], row["crowd"]) == (["dog", "cow"], [True, False])
  assert row["_notes"] == ("annotations_skipped",)
  images.write(folder / "Annotations" / "a.xml", _xml(("dog", "maybe", 3, 2, 8, 5)))
  with pytest.raises(errors.DataError, match="difficult is 'maybe'"):
    sources.Voc(str(folder)).open()[1]
