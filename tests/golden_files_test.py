"""A golden that is not there fails the test that needs it."""

import pathlib
import re

import pytest

from tests import golden_files

TESTS = pathlib.Path(__file__).resolve().parent


def test_a_missing_golden_fails_and_says_how_to_get_it():
  with pytest.raises(pytest.fail.Exception, match=r"tests/golden/bv/none\.npz is missing: `git"):
    golden_files.path("bv/none.npz")


def test_every_golden_is_described():
  text = "".join(p.read_text("utf-8") for p in (TESTS / "golden").rglob("README.md"))
  for path in sorted((TESTS / "golden").iterdir()):
    assert path.name == "README.md" or f"`{path.name}" in text, path
  patterns = re.findall(r"`([\w{},.]+\.(?:npz|json|model))`", text)
  assert len(patterns) > 15
