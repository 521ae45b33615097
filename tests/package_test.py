"""What pip installs: all that a run needs is in the wheel, and it works from another folder."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_COPIED = (
  "__pycache__",
  ".[!c]*",
  "*.egg-info",
  "runs",
  "build",
  "dist",
  "golden",
  "checkpoints",
)


def test_the_packages_that_are_named_are_those_that_are_there():
  found = {path.parent for path in (ROOT / "paligemma_jax").rglob("*.py")}
  names = {".".join(path.relative_to(ROOT).parts) for path in found}
  mapped = {"paligemma_jax.builders": "tools/prepare", "paligemma_jax.transfers": "transfers"}
  assert set(SETUPTOOLS["packages"]) == names | set(mapped)
  assert {k: v for k, v in SETUPTOOLS["package-dir"].items() if k in mapped} == mapped


def test_requirements_have_one_source():
  dynamic = SETUPTOOLS["dynamic"]
  assert "dependencies" not in PROJECT["project"]
  assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
  extras = dynamic["optional-dependencies"]
  assert extras == {name: {"file": [f"requirements/{name}.txt"]} for name in extras}
  files = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
  assert files - set(extras) == {"bench"}  # Of the rivals, which are nothing of ours.
  tests = (ROOT / "requirements-test.txt").read_text().splitlines()
  assert [line for line in tests if not line.startswith("#")] == [
    "-r requirements.txt",
    "-r requirements/test.txt",
  ]


def test_every_file_that_names_jax_names_the_same_versions():
  files = [ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt")]
  lines = [line for file in files for line in file.read_text().splitlines()]
  found = [m[1] for line in lines if (m := re.match(r"jax(?:lib)?(?:\[.*\])?([><=][^ ]*)", line))]
  assert len(found) >= 7 and len(set(found)) == 1, found


def _without_isolation():
  """True where the build needs nothing from elsewhere."""
  try:
    return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
  except importlib.metadata.PackageNotFoundError:
    return False


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """The wheel, built from a copy: a build writes into the folder that it builds."""
  folder = tmp_path_factory.mktemp("build")
  shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_COPIED))
  command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder)]
  if _without_isolation():
    command.append("--no-build-isolation")
  done = subprocess.run(
    [*command, str(folder / "source")], capture_output=True, text=True, check=False
  )
  if done.returncode and "No matching distribution found for setuptools" in done.stderr:
    pytest.skip("setuptools>=77 is neither here nor to be had")
  assert done.returncode == 0, done.stderr
  (wheel,) = folder.glob("*.whl")
  return wheel


@pytest.fixture(scope="module")
def site(built, tmp_path_factory):
  """The folder that the wheel is installed into, beside this Python's own packages."""
  folder = tmp_path_factory.mktemp("site")
  subprocess.run(
    [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target",
     str(folder), str(built)],
    check=True,
  )  # fmt: skip
  return folder


@pytest.mark.slow  # Builds the wheel, with setuptools from elsewhere if need be.
def test_the_wheel_holds_pages_builders_and_assets(built):
  names = set(zipfile.ZipFile(built).namelist())
  for folder, inside in (
    ("paligemma_jax", "paligemma_jax"),
    ("transfers", "paligemma_jax/transfers"),
    ("tools/prepare", "paligemma_jax/builders"),
  ):
    for path in (ROOT / folder).rglob("*"):
      if path.is_file() and "__pycache__" not in path.parts:
        assert f"{inside}/{path.relative_to(ROOT / folder)}" in names
  assert not [name for name in names if name.startswith(("tests/", "configs/", "tools/"))]
  assert built.stat().st_size < 6e6


@pytest.mark.slow  # Builds the sdist.
@pytest.mark.skipif(not _without_isolation(), reason="needs setuptools>=77")
def test_the_sdist_holds_what_the_wheel_is_made_of(tmp_path):
  source = tmp_path / "source"
  shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_COPIED))
  code = f"import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})"
  subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
  (file,) = tmp_path.glob("*.tar.gz")
  with tarfile.open(file) as archive:
    names = {name.partition("/")[2] for name in archive.getnames()}
  for path in (
    "transfers/okvqa.py",
    "tools/prepare/okvqa.py",
    "configs/tiny.py",
    "requirements/tpu.txt",
    "requirements-test.txt",
    "paligemma_jax/assets/demo/tiny_112.npz",
    "docs/data.md",
    ".ci/run",
  ):
    assert path in names
  # Tests and what they compare with are five times as large as all else; a clone has them.
  assert not [name for name in names if name.endswith(".pyc") or name.startswith("tests/")]
  assert file.stat().st_size < 8e6


@pytest.mark.slow  # Builds the wheel.
def test_the_wheel_asks_for_what_the_requirements_name(built):
  with zipfile.ZipFile(built) as wheel:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    text = wheel.read(name).decode()
    (entry,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "paligemma-jax = paligemma_jax.cli:main" in wheel.read(entry).decode()
  asked = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", text, re.MULTILINE)
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  assert asked == [re.match(r"[\w.-]+", line)[0] for line in lines if not line.startswith("#")]
  for extra in SETUPTOOLS["dynamic"]["optional-dependencies"]:
    assert f"\nProvides-Extra: {extra}\n" in text


def _call(site, folder, *args):
  done = subprocess.run(
    [sys.executable, str(site / "bin" / "paligemma-jax"), *map(str, args)],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(site)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow  # A run, an evaluation, answers and a conversion, each in a process of its own.
def test_it_works_from_another_folder(site, tmp_path):
  assert "usage: paligemma-jax train" in _call(site, tmp_path, "train", "--help")
  assert "paligemma-jax train --config mine.py" in _call(site, tmp_path, "new", "mine.py")
  train = (
    "train", "--config", "mine.py:tune=lora", "--workdir", "run", "--config.train.total=2 steps",
    "--config.train.batch_size=4", "--config.evals.0.limit=4", "--config.evals.1.limit=4",
    "--config.evals.2.limit=4",
  )  # fmt: skip
  _call(site, tmp_path, *train)
  assert (tmp_path / "run" / "report.html").is_file()
  scores = _call(site, tmp_path, "evaluate", "--workdir", "run")
  assert '"step": 2' in scores and "val/exact" in scores
  _call(site, tmp_path, "convert", "run", "run.npz", "--format", "npz")
  PIL.Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
  predict = ("predict", "--ckpt", "run.npz", "--prompt", "caption en", "--out", "out.jsonl")
  tokenizer = site / "paligemma_jax" / "assets" / "demo" / "tokenizer.model"
  _call(site, tmp_path, *predict, "--tokenizer", tokenizer, "--max_new_tokens", 2, "a.png")
  assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow  # Builds the wheel.
def test_pages_and_builders_are_found_where_they_are_installed(site, tmp_path):
  assert "okvqa" in _call(site, tmp_path, "prepare").splitlines()
  code = """
import paligemma_jax
from paligemma_jax.builders import okvqa
from paligemma_jax.config import config_file, load
assert load.load("transfers/okvqa.py:res=448").model.res == 448
print(paligemma_jax.__file__, okvqa.__file__, config_file.pages_folder())
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(site)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert all(pathlib.Path(path).is_relative_to(site) for path in done.stdout.split())
