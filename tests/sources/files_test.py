"""Files are found under the names that other systems wrote, and never outside of their folder."""

import os

import pytest

from paligemma_jax.core import errors
from paligemma_jax.sources import files


def _fill(root, *names):
  for name in names:
    path = os.path.join(os.fsencode(root), name if isinstance(name, bytes) else os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
      f.write(os.path.basename(path))


@pytest.mark.parametrize(
  ("there", "asked"),
  [
    ("sub/a.jpg", "sub\\a.jpg"),
    ("sub/a.jpg", ".\\sub\\a.jpg"),
    ("Sub/A.JPG", "sub/a.jpg"),
    ("Zoe\u0308.jpg", "Zo\u00eb.jpg"),
    ("Zo\u00eb.jpg", "Zoe\u0308.jpg"),
    ("my big cat.jpg", "my big cat.jpg"),
    ("a\\b.jpg", "a\\b.jpg"),  # A backslash may be a letter of a name.
    ("STRASSE.png", "straße.png"),
    (b"Zo\xeb.jpg", "Zo\u00eb.jpg"),  # Written by an old Windows.
    (b"\xff\xfe.jpg", os.fsdecode(b"\xff\xfe.jpg")),
  ],
)
def test_a_name_of_another_system_is_found(tmp_path, there, asked):
  _fill(tmp_path, there)
  expected = os.path.basename(there if isinstance(there, bytes) else os.fsencode(there))
  assert files.read_under(str(tmp_path), asked) == expected
  assert files.find_under(str(tmp_path), asked)


def test_the_exact_name_comes_first_and_a_choice_is_an_error(tmp_path):
  _fill(tmp_path, "a.jpg", "A.jpg")
  assert files.read_under(str(tmp_path), "A.jpg") == b"A.jpg"
  with pytest.raises(errors.DataError, match=r"which of 'A\.jpg', 'a\.jpg' is meant"):
    files.read_under(str(tmp_path), "a.JPG")


def test_a_file_with_another_ending_is_named_but_not_taken(tmp_path):
  _fill(tmp_path, "sub/a.png")
  with pytest.raises(errors.DataError, match=r"'sub/a.jpg' is not in .*There is 'sub/a\.png'\."):
    files.read_under(str(tmp_path), "sub/a.jpg")
  assert files.by_stem(str(tmp_path), "SUB/A", (".jpg", ".png")) == ["sub/a.png"]
  assert files.by_stem(str(tmp_path), "gone/a", (".png",)) == []


def test_a_listing_follows_its_folder(tmp_path):
  _fill(tmp_path, "a.jpg")
  assert files.same(str(tmp_path), "B.jpg") is None
  os.utime(tmp_path, ns=(1, 1))
  _fill(tmp_path, "b.jpg")
  assert files.same(str(tmp_path), "B.jpg") == "b.jpg"


def test_folders_are_listed_to_the_bottom_in_the_order_of_people(tmp_path):
  _fill(
      tmp_path, "x/10.jpg", "x/2.jpg", "x/sub/1.jpg", "x/sub10/1.jpg", "x/sub9/1.jpg",
      "x/.hidden.jpg", "x/__MACOSX/a.jpg", "x/._a.jpg",
  )  # fmt: skip
  (tmp_path / "x" / "sub" / "up").symlink_to(tmp_path / "x")  # A loop.
  expected = ["2.jpg", "10.jpg", "sub/1.jpg", "sub9/1.jpg", "sub10/1.jpg"]
  assert files.paths_under(str(tmp_path), "X") == ("x", expected)
  assert files.paths_under(str(tmp_path), "x/2.jpg") is None
  assert files.paths_under(str(tmp_path), "gone") is None


@pytest.mark.parametrize("name", ["C:\\x\\a.jpg", "..\\a.jpg", "/a.jpg", "sub\\..\\..\\a.jpg"])
def test_names_that_lead_out_are_refused_in_every_spelling(tmp_path, name):
  (tmp_path / "root").mkdir()
  _fill(tmp_path, "a.jpg")
  with pytest.raises(errors.DataError, match="must be relative"):
    files.read_under(str(tmp_path / "root"), name)


def test_a_link_that_leads_out_is_refused_also_under_another_name(tmp_path):
  _fill(tmp_path, "outside/a.jpg")
  (tmp_path / "root").mkdir()
  (tmp_path / "root" / "Link").symlink_to(tmp_path / "outside")
  with pytest.raises(errors.DataError, match="symlink"):
    files.read_under(str(tmp_path / "root"), "link/A.jpg")
  with pytest.raises(errors.DataError, match="symlink"):
    files.paths_under(str(tmp_path / "root"), ".")


def test_a_link_to_itself_is_listed_and_is_no_file(tmp_path):
  (tmp_path / "images").mkdir()
  (tmp_path / "images" / "a.png").symlink_to("a.png")
  assert files.paths_under(str(tmp_path), "images") == ("images", ["a.png"])
  with pytest.raises(errors.DataError, match="symbolic links"):
    files.read_under(str(tmp_path), "images/a.png")
