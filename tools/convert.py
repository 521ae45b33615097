"""Weights from any format we read into one we write: python tools/convert.py SRC DST --format npz

SRC is a run, one of its checkpoints/<step>, a big_vision npz, a Hugging Face directory, a directory
that `save` wrote, or a published name. Values are kept to the bit unless --dtype asks otherwise.
Of a run with adapters these are merged into their matrices, in float32; `--format peft` writes the
adapters alone, as Hugging Face PEFT opens them.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # So that it runs from a clone, from any folder.

from paligemma_jax.core import errors  # noqa: E402


def main() -> None:
  """Converts; prints where the result is."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("src", metavar="SRC", help="weights to read, or a published name")
  parser.add_argument("dst", metavar="DST", type=pathlib.Path, help="where to write; must be new")
  parser.add_argument("--format", choices=("npz", "native", "hf", "peft"), required=True)
  parser.add_argument(
      "--dtype",
      choices=("float32", "bfloat16", "float16"),
      help="of the result (default: as stored)",
  )
  args = parser.parse_args()

  from paligemma_jax.running import devices

  devices.start()

  from paligemma_jax.training import opening
  from paligemma_jax.weights import export
  from paligemma_jax.weights import hf_export
  from paligemma_jax.weights import load
  from paligemma_jax.weights import native

  if args.dst.exists():
    raise errors.ConfigError(f"{args.dst} exists; nothing was changed. Name a new file or folder.")
  if args.format == "peft":
    opening.save_peft(args.src, args.dst)
    print(f"wrote {args.dst}")
    return

  def read():
    weights = opening.open_weights(args.src)
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    return weights, load.load_params(weights, shapes, dtype=None, log=print)

  weights, params = opening.read_steadily(args.src, read)
  if args.format == "npz":
    export.save_npz(args.dst, params, dtype=args.dtype)
  else:
    save = {"native": native.save_native, "hf": hf_export.save_hf}[args.format]
    content = weights.tokenizer.read_bytes() if weights.tokenizer else b""
    save(args.dst, params, weights.sizes, dtype=args.dtype, tokenizer=content)
  print(f"wrote {args.dst}")


if __name__ == "__main__":
  errors.run_main(main)
