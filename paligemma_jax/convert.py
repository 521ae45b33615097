"""Converts weights between formats: python -m paligemma_jax.convert SRC DST --format npz

SRC is a run, one of its checkpoints/<step>, a big_vision npz, a Hugging Face directory, one that
`save` wrote, one of PEFT adapters, a published name, or an id on the Hugging Face hub. Values do
not change unless --dtype is given. Adapters are merged into their matrices, in float32. `--format
peft` writes the adapters of a run, with all other trained parameters, for PEFT; `--format hf
--without_adapters` writes their base.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import bucket
from paligemma_jax.core import errors


def parser() -> argparse.ArgumentParser:
  found = argparse.ArgumentParser(
    prog=command_line.called("convert"),
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  found.add_argument("src", metavar="SRC", help="weights to read, or a published name")
  found.add_argument("dst", metavar="DST", type=bucket.path, help="where to write; must be new")
  found.add_argument("--format", choices=("npz", "native", "hf", "peft"), required=True)
  found.add_argument(
    "--dtype", choices=("float32", "bfloat16", "float16"), help="of the result (default: as stored)"
  )
  found.add_argument("--tokenizer", default="", help="default: the one with the weights")
  found.add_argument(
    "--base",
    default="",
    help="the base of PEFT adapters, to read from SRC or to write with --format peft",
  )
  found.add_argument(
    "--without_adapters", action="store_true", help="only the base of a run, without quantization"
  )
  return found


def main(argv: Sequence[str]) -> None:
  """Converts the weights and prints where they are."""
  args = parser().parse_args(argv)

  from paligemma_jax.trainer import devices

  devices.start(alone=True)

  from paligemma_jax.checkpoint import export
  from paligemma_jax.checkpoint import load
  from paligemma_jax.checkpoint import opening
  from paligemma_jax.data import tokenizer as tokenizers

  if args.dst.exists():
    raise errors.ConfigError(f"{args.dst} exists; nothing was changed. Name a new file or folder.")
  if args.format == "peft":
    opening.save_peft(args.src, args.dst, base=args.base, log=print)
    print(f"wrote {args.dst}")
    return

  def read():
    if args.without_adapters:
      weights = opening.open_base(args.src)
    else:
      weights = opening.open_weights(args.src, base=args.base)
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    return weights, load.load_params(weights, shapes, dtype=None, log=print)

  weights, params = opening.read_steadily(args.src, read)
  found = args.tokenizer or weights.tokenizer
  tokenizer = tokenizers.Tokenizer(found) if found else None
  export.save(
    args.dst,
    params,
    weights.sizes,
    format=args.format,
    dtype=args.dtype,
    tokenizer=tokenizer,
    source=weights,
  )
  print(f"wrote {args.dst}")


if __name__ == "__main__":
  cli.run("convert", sys.argv[1:])
