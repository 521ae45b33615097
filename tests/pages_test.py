"""The pages of docs/ and the top: links lead somewhere, quoted messages are those of the code."""

import ast
import functools
import importlib
import pathlib
import re

import pytest

from paligemma_jax.config import schema

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
  [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests" / "golden").rglob("*.md")]
)
QUOTED = re.findall(
  r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE
)


def anchors(path):
  """The anchors of a page's headings, as GitHub and mkdocs make them."""
  headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
  return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page):
  text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
  for target in re.findall(r"\]\(([^)\s]+)\)", text):
    if "://" not in target:
      name, _, anchor = target.partition("#")
      path = (page.parent / name).resolve() if name else page
      assert path.exists(), target
      assert not anchor or re.sub(r"-{2,}", "-", anchor) in {
        re.sub(r"-{2,}", "-", known) for known in anchors(path)
      }, target


def test_every_page_is_in_the_index_and_in_the_navigation():
  index = (DOCS / "index.md").read_text("utf-8")
  navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
  for page in DOCS.rglob("*.md"):
    name = page.relative_to(DOCS).as_posix()
    assert re.search(rf"[- ]{re.escape(name)}$", navigation, re.MULTILINE), name
    listed = (DOCS / "api" / "index.md").read_text("utf-8") if "api/" in name else index
    assert page.name == "index.md" or f"]({page.name})" in listed, name


def test_every_page_that_code_names_exists():
  folders = ("paligemma_jax", "tools", "transfers", "configs")
  files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
  named = {(p, n) for p in files for n in re.findall(r"docs/[\w/]+\.md", p.read_text("utf-8"))}
  assert len(named) > 5
  assert not [(str(p), n) for p, n in named if not (ROOT / n).exists()]


NAMED = [p for p in PAGES if p.name != "CHANGELOG.md" and "golden" not in p.parts]


@pytest.mark.parametrize("page", NAMED, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_modules_and_keys_that_a_page_names_exist(page):
  text = page.read_text("utf-8")
  folders = "paligemma_jax|tools|tests|configs|transfers|requirements|docs|regions|models"
  for path in re.findall(rf"(?<![\w./])(?:{folders})/[\w/.-]+\.(?:py|txt|md|npz)", text):
    found = [(base / path).exists() for base in (ROOT, ROOT / "paligemma_jax", page.parent)]
    assert any(found) or path.endswith("/NAME.py"), path
  for module in re.findall(r"-m ((?:paligemma_jax|tools|tests)\.[\w.]*\w)", text):
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
  sections = "|".join(filter(None, schema.sections()))
  keys = re.findall(rf"`((?:{sections})\.[a-z_0-9]+)(?==|`)", text)
  keys += re.findall(rf"--config\.((?:{sections})\.[a-z_0-9]+)", text)
  assert not [key for key in keys if key not in schema.flat() and not key.endswith(".py")]


def test_the_implementations_of_attention_are_those_that_the_config_takes():
  page = (DOCS / "attention.md").read_text("utf-8").partition("## ")[0]
  listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
  assert set(listed) == set(schema.flat()["model.attention"].choices)


@functools.cache
def messages():
  """Every text in the package's source, with … for what an f-string fills in."""
  found = set()
  for path in (ROOT / "paligemma_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
      if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
        found.add(re.sub("…+", "…", "".join(parts)))
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found.add(node.value)
  return found


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_message_of_the_troubleshooting_page_is_in_the_code(quoted):
  assert len(quoted.replace("…", "").strip()) > 12
  assert any(quoted.rstrip("…") in message for message in messages()), quoted


def test_the_messages_met_most_often_are_there():
  assert len(QUOTED) == len(set(QUOTED)) >= 25


def test_a_message_that_no_code_says_would_be_told():
  assert not any("There is no knob …" in message for message in messages())


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda page: page.stem)
def test_everything_in_the_api_reference_exists_and_is_documented(page):
  names = re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
  assert names
  for name in names:
    assert _named(name).__doc__, name


def _named(name):
  """The module or attribute of that dotted name."""
  parts = name.split(".")
  for i in range(len(parts), 0, -1):
    try:
      found = importlib.import_module(".".join(parts[:i]))
    except ModuleNotFoundError:
      continue
    for part in parts[i:]:
      found = getattr(found, part)
    return found
  raise AssertionError(name)


@pytest.mark.parametrize(
  "table", ["sources.SOURCES", "pp.OPS", "evals.EVALUATORS", "trackers.TRACKERS"]
)
def test_the_api_reference_has_all_that_is_built_in(table):
  room, _, name = table.partition(".")
  text = (DOCS / "api" / f"{room}.md").read_text("utf-8")
  listed = set(re.findall(r"^::: \S+\.(\w+)$", text, re.MULTILINE))
  built_in = getattr(importlib.import_module(f"paligemma_jax.{room}"), name).values()
  assert {cls.__name__ for cls in built_in} <= listed
