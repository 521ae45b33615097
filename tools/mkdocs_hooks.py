"""Hooks for mkdocs: adds transfers/*.py, to which docs/benchmarks.md links, to the site."""

import pathlib

from mkdocs.structure import files as files_lib

_TRANSFERS = pathlib.Path(__file__).resolve().parent.parent / "transfers"


def on_files(files, config):
  """Adds transfers/*.py to the files of the site."""
  for path in sorted(_TRANSFERS.glob("*.py")):
    uri = f"transfers/{path.name}"
    files.append(files_lib.File.generated(config, uri, abs_src_path=str(path)))
  return files


def on_page_markdown(markdown, **_):
  """Turns links from docs/ to transfers/ into links within the site."""
  return markdown.replace("](../transfers/", "](transfers/")
