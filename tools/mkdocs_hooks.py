"""For mkdocs: the pages of transfers/, to which docs/benchmarks.md links, are in the site too."""

import pathlib

from mkdocs.structure import files as files_lib

_TRANSFERS = pathlib.Path(__file__).resolve().parent.parent / "transfers"


def on_files(files, config):
  """Adds transfers/*.py beside the pages."""
  for path in sorted(_TRANSFERS.glob("*.py")):
    uri = f"transfers/{path.name}"
    files.append(files_lib.File.generated(config, uri, abs_src_path=str(path)))
  return files


def on_page_markdown(markdown, **_):
  """Links out of docs/, as the repository has them, become links within the site."""
  return markdown.replace("](../transfers/", "](transfers/")
