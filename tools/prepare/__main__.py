"""Builds a benchmark's dataset from its download: python -m paligemma_jax.prepare okvqa --raw DIR

Without --raw it lists the files to download and their pages. The result is in $TFDS_DATA_DIR (or
~/tensorflow_datasets), where transfers read it.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paligemma_jax.config import command_line
from paligemma_jax.core import errors
from paligemma_jax.sources import tfds as tfds_source

if TYPE_CHECKING:
  from . import build

_FOLDER = pathlib.Path(__file__).resolve().parent
_FRAME = ("__init__", "__main__", "build", "plain_pickle", "raw", "rsvqa", "video")


def module_names() -> list[str]:
  """The benchmarks that have a builder."""
  return sorted(p.stem for p in _FOLDER.glob("*.py") if p.stem not in _FRAME)


def datasets_of(name: str) -> tuple[build.Dataset, ...]:
  """All datasets of a builder ('chartqa'), or one of them ('chartqa/human')."""
  known = module_names()
  module = errors.pick({n: n for n in known}, name.partition("/")[0], "benchmark")
  found = importlib.import_module(f".{module}", __package__).DATASETS
  if "/" in name:
    return (errors.pick({d.name: d for d in found}, name, "dataset"),)
  return tuple(found)


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  found = argparse.ArgumentParser(prog=command_line.called("prepare"), description=__doc__)
  found.add_argument("name", nargs="?", help=f"one of: {', '.join(module_names())}")
  found.add_argument("--raw", type=pathlib.Path, help="folder with the downloaded files")
  found.add_argument("--data-dir", type=pathlib.Path, help="where to write (default: see above)")
  found.add_argument("--rows-per-shard", type=int, default=5000)
  return found


def main(argv: Sequence[str]) -> None:
  """Builds the dataset, or lists the files that it needs."""
  args = parser().parse_args(argv)
  if not args.name:
    print("\n".join(module_names()))
    return
  from . import build

  data_dir = args.data_dir or tfds_source.default_data_dir()
  for dataset in datasets_of(args.name):
    if args.raw is None:
      print(f"{dataset.name}: get from {dataset.homepage} into one folder:")
      print("\n".join(f"  {line}" for line in dataset.files))
    else:
      print(build.write(dataset, args.raw, data_dir, rows_per_shard=args.rows_per_shard))


if __name__ == "__main__":
  errors.run_main(lambda: main(sys.argv[1:]))
