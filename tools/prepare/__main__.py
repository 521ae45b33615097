"""Builds a benchmark's dataset from its official download: python -m tools.prepare okvqa --raw DIR

Without --raw it says what to download and from where. The result lies in $TFDS_DATA_DIR (or
~/tensorflow_datasets), where the transfers look for it.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
from typing import TYPE_CHECKING

from paligemma_jax.core import errors
from paligemma_jax.sources import tfds as tfds_source

if TYPE_CHECKING:
  from tools.prepare import build

_FOLDER = pathlib.Path(__file__).resolve().parent
_FRAME = ("__init__", "__main__", "build", "plain_pickle", "raw", "rsvqa", "video")


def module_names() -> list[str]:
  """The benchmarks that have a builder."""
  return sorted(p.stem for p in _FOLDER.glob("*.py") if p.stem not in _FRAME)


def datasets_of(name: str) -> tuple[build.Dataset, ...]:
  """All datasets of a builder ('chartqa'), or the one of that name ('chartqa/human')."""
  known = module_names()
  module = errors.pick({n: n for n in known}, name.partition("/")[0], "benchmark")
  found = importlib.import_module(f"tools.prepare.{module}").DATASETS
  if "/" in name:
    return (errors.pick({d.name: d for d in found}, name, "dataset"),)
  return tuple(found)


def main() -> None:
  """Builds, or says what is needed to build."""
  parser = argparse.ArgumentParser(prog="python -m tools.prepare", description=__doc__)
  parser.add_argument("name", nargs="?", help=f"one of: {', '.join(module_names())}")
  parser.add_argument("--raw", type=pathlib.Path, help="folder with the downloaded files")
  parser.add_argument("--data-dir", type=pathlib.Path, help="where to write (default: see above)")
  parser.add_argument("--rows-per-shard", type=int, default=5000)
  args = parser.parse_args()
  if not args.name:
    print("\n".join(module_names()))
    return
  from tools.prepare import build

  data_dir = args.data_dir or tfds_source.default_data_dir()
  for dataset in datasets_of(args.name):
    if args.raw is None:
      print(f"{dataset.name}: get from {dataset.homepage} into one folder:")
      print("\n".join(f"  {line}" for line in dataset.files))
    else:
      print(build.write(dataset, args.raw, data_dir, rows_per_shard=args.rows_per_shard))


if __name__ == "__main__":
  sys.exit(errors.run_main(main))
