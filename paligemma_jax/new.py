"""python -m paligemma_jax.new mine.py: copies the template to a config file of your own."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.config import config_file
from paligemma_jax.core import errors

_TEMPLATE = "forkme"


def parser() -> argparse.ArgumentParser:
  what = "Copies the template, or another page, to a new file. No file is overwritten."
  found = command_line.plain_parser("new", what)
  found.add_argument("file", metavar="FILE.py", type=pathlib.Path, help="the new file")
  page = "the page to copy, as 'okvqa' (default: the template)"
  found.add_argument("--page", default=_TEMPLATE, help=page)
  return found


def main(argv: Sequence[str]) -> None:
  """Writes the copy and prints the command that runs it."""
  args = parser().parse_args(argv)
  page = args.page
  errors.pick(dict.fromkeys(config_file.page_names()), page, "page")
  if args.file.suffix != ".py":
    raise errors.ConfigError(f"A page is a Python file; name it {str(args.file) + '.py'!r}.")
  text = (config_file.pages_folder() / f"{page}.py").read_text(encoding="utf-8")
  for old in (f"transfers/{page}.py", "mine.py"):
    text = text.replace(old, args.file.as_posix())
  for old in (f"runs/{page}", "runs/mine"):
    text = text.replace(old, f"runs/{args.file.stem}")
  try:
    with args.file.open("x", encoding="utf-8") as f:
      f.write(text)
  except FileExistsError:
    raise errors.ConfigError(f"{args.file} exists; nothing was changed. Name a new file.") from None
  except FileNotFoundError:
    raise errors.ConfigError(f"There is no folder {str(args.file.parent)!r}.") from None
  marked = "the places marked EDIT" if page == _TEMPLATE else "what your task needs"
  config, workdir = shlex.quote(str(args.file)), shlex.quote(f"runs/{args.file.stem}")
  print(f"wrote {args.file}; edit {marked}, then:")
  print(f"  {command_line.called('train')} --config {config} --workdir {workdir}")


if __name__ == "__main__":
  cli.run("new", sys.argv[1:])
