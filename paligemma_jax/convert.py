"""Converts weights between formats: python -m paligemma_jax.convert SRC DST --format npz

SRC is a run, one of its checkpoints/<step>, a big_vision npz, a Hugging Face directory, one that
`save` wrote, one of PEFT adapters, a published name, or an id on the Hugging Face hub. Values do
not change unless --dtype is given. Adapters are merged into their matrices, in float32. `--format
peft` writes the adapters of a run, with all other trained parameters, for PEFT; `--format hf
--without_adapters` writes their base. `paligemma_jax.convert(src, dst, format="peft")` does the
same from Python.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import bucket
from paligemma_jax.core import errors

_FORMATS = ("npz", "native", "hf", "peft")


def parser() -> argparse.ArgumentParser:
  found = argparse.ArgumentParser(
    prog=command_line.called("convert"),
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  found.add_argument("src", metavar="SRC", help="weights to read, or a published name")
  found.add_argument("dst", metavar="DST", type=bucket.path, help="where to write; must be new")
  found.add_argument("--format", choices=_FORMATS, required=True)
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


def convert(
  src: str | os.PathLike[str],
  dst: str | os.PathLike[str],
  *,
  format: str,
  dtype: str | None = None,
  tokenizer: str = "",
  base: str = "",
  without_adapters: bool = False,
  log: Callable[[str], Any] = print,
) -> pathlib.Path:
  """Writes weights in another format, as the command does; returns `dst`.

  Args:
    format: "npz", "native", "hf" or "peft".
    dtype, tokenizer, base, without_adapters: as the flags.
    log: called with each sentence about what is read and written.

  Raises:
    ConfigError: `dst` exists, or there is no such format.
    CheckpointError: `src` cannot be read, or cannot be written in this format.
  """
  errors.pick(dict.fromkeys(_FORMATS), format, "format")

  from paligemma_jax.trainer import devices

  devices.start(alone=True)

  from paligemma_jax.checkpoint import export
  from paligemma_jax.checkpoint import load
  from paligemma_jax.checkpoint import opening
  from paligemma_jax.data import tokenizer as tokenizers

  dst = bucket.path(dst)
  if dst.exists():
    raise errors.ConfigError(f"{dst} exists; nothing was changed. Name a new file or folder.")
  if format == "peft":
    opening.save_peft(src, dst, base=base, log=log)
    log(f"wrote {dst}")
    return dst

  def read():
    weights = opening.open_base(src) if without_adapters else opening.open_weights(src, base=base)
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    return weights, load.load_params(weights, shapes, dtype=None, log=log)

  weights, params = opening.read_steadily(src, read)
  found = tokenizer or weights.tokenizer
  export.save(
    dst,
    params,
    weights.sizes,
    format=format,
    dtype=dtype,
    tokenizer=tokenizers.Tokenizer(found) if found else None,
    source=weights,
  )
  log(f"wrote {dst}")
  return dst


def main(argv: Sequence[str]) -> None:
  """Converts the weights and prints where they are."""
  convert(**vars(parser().parse_args(argv)))  # The flags are its arguments.


class _Callable(types.ModuleType):
  """This module, callable: `paligemma_jax.convert` is the module and the function."""

  def __call__(self, src, dst, **flags) -> pathlib.Path:
    """See `convert`."""
    return convert(src, dst, **flags)


if __name__ == "__main__":
  cli.run("convert", sys.argv[1:])
else:
  sys.modules[__name__].__class__ = _Callable
