"""CONTRIBUTING.md and the files beside it say what is so."""

import pathlib
import re

import paligemma_jax
from tests import house_test

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_the_floors_are_those_of_the_house_test():
  lines = re.findall(r"^\d+\. (.*)$", PAGE, re.MULTILINE)
  assert len(lines) == len(house_test.FLOORS)
  for line, floor in zip(lines[:-1], house_test.FLOORS, strict=False):
    named = re.findall(r"`([\w.]+)`", line)
    assert {name.removesuffix(".py") for name in named} == floor
  assert f"at most {house_test.LINES_WALL} lines" in PAGE


def test_every_path_that_is_named_exists():
  paths = set(re.findall(r"`((?:\.ci|\w+)/[\w./]*)`", PAGE)) | set(
    re.findall(r"(?:python|pytest) ((?:tests|tools)/[\w./]+)", PAGE)
  )
  assert len(paths) > 20
  missing = [
    p for p in paths if not (ROOT / p).exists() and not (ROOT / "paligemma_jax" / p).exists()
  ]
  assert not missing


def test_ci_runs_the_readmes_tests_on_the_oldest_and_the_newest_python():
  text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
  assert 'python: ["3.11", "3.13"]' in text and "- run: .ci/run\n" in text
  project = (ROOT / "pyproject.toml").read_text("utf-8")
  assert 'requires-python = ">=3.11"' in project
  assert max(re.findall(r"Python :: 3\.(\d+)", project), key=int) == "13"
  assert (ROOT / ".ci/run").stat().st_mode & 0o100


def test_the_citation_has_the_version_of_the_package():
  text = (ROOT / "CITATION.cff").read_text("utf-8")
  assert f"\nversion: {paligemma_jax.__version__}\n" in text


def test_ci_and_the_hook_use_one_version_of_ruff():
  hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
  assert re.findall(r"id: ([\w-]+)", hooks) == ["ruff-check", "ruff-format"]
  version = re.search(r"rev: v([\d.]+)", hooks)[1]
  assert f"ruff=={version}\n" in (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
