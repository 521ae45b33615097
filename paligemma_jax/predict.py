"""python -m paligemma_jax.predict --ckpt runs/demo --prompt "caption en" --out out.jsonl *.jpg"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import errors
from paligemma_jax.core import sampling_options

if TYPE_CHECKING:
  from paligemma_jax.trainer import predicting

_DESCRIPTION = """Answers questions about images, one JSON line each: the row's number and columns,
`prompt`, `text` and `logprob`. The images are files with one --prompt for all, or --rows, a JSONL
file with `image` and `prefix`. The same command resumes after an interruption and keeps the answers
that are there."""

_EXAMPLES = """examples:
  {0} --ckpt runs/demo --prompt "caption en" --out out.jsonl *.jpg
  {0} --ckpt pt_224 --rows questions.jsonl --out out.jsonl
"""

_EXIF = {"true": True, "false": False, "auto": "auto"}
_DECODING = ("max_new_tokens", "sampler", "best_of", "beam_size", "seed", *sampling_options.FIELDS)


def main(argv: Sequence[str]) -> None:
  """Answers the questions that have no answer yet."""
  args = parser().parse_args(argv)
  if bool(args.images) == bool(args.rows):
    raise errors.ConfigError("Name images, or --rows FILE.jsonl: one of the two.")
  if args.images and not args.prompt:
    raise errors.ConfigError("Images given by name need a --prompt.")
  if not 0 <= args.seed < 2**63:
    raise errors.ConfigError(f"--seed is a whole number from 0 to 2**63 - 1; got {args.seed}.")
  if min(args.max_new_tokens, args.batch_size) < 1:
    raise errors.ConfigError("--max_new_tokens and --batch_size must be at least 1.")
  sampling_options.check(args)

  from paligemma_jax import sources
  from paligemma_jax.trainer import predicting

  rows = sources.Jsonl(args.rows, images=args.image_folder).open() if args.rows else None
  decoding = {name: getattr(args, name) for name in _DECODING}
  decoding |= {"banned": args.ban, "exif": _EXIF[args.exif]}
  settings = {name: getattr(args, name) for name in ("ckpt", "prompt", "res", "dtype")} | decoding
  settings["rows"] = args.images if rows is None else rows.fingerprint()
  with predicting.opened(args.out, settings) as answers:
    _answer(args, rows, answers, decoding)


def _answer(
  args: argparse.Namespace, rows: Any, answers: predicting.Answers, decoding: dict[str, Any]
) -> None:
  from paligemma_jax.trainer import predicting

  start, num_rows = answers.num_done, len(rows if args.rows else args.images)
  if start >= num_rows:
    command_line.note(f"all {num_rows} answers are in {args.out}")
    return
  if start:
    command_line.note(f"going on after {start} answers in {args.out}")
  if args.rows:
    questions = predicting.from_rows(rows, args.prompt, start=start)
  else:
    questions = predicting.from_images(args.images[start:], args.prompt)

  from paligemma_jax import api
  from paligemma_jax.trainer import devices

  devices.start(alone=True)
  pg = api.load(args.ckpt, dtype=args.dtype, tokenizer=args.tokenizer or None, res=args.res)
  num_bad = predicting.run(
    functools.partial(pg.generate, batch_size=args.batch_size, **decoding),
    questions,
    answers,
    batch_size=args.batch_size,
    bad_rows=args.bad_rows,
    note=command_line.note,
  )
  command_line.note(f"{num_rows - start} answers, {num_bad} of them errors, in {args.out}")


def parser() -> argparse.ArgumentParser:
  examples = _EXAMPLES.format(command_line.called("predict"))
  found = command_line.plain_parser("predict", _DESCRIPTION, examples)
  add = found.add_argument
  add("images", nargs="*", metavar="IMAGE", help="image files")
  add("--ckpt", required=True, help="a run, weights, a Hugging Face directory, a published name")
  add("--out", required=True, metavar="FILE", help="the JSONL file of answers")
  add("--prompt", default="", help="the question, for all images or for rows without `prefix`")
  add("--rows", default="", metavar="FILE", help="a JSONL file of rows")
  add("--image_folder", default="", metavar="DIR", help="of the rows' images (default: of --rows)")
  add("--tokenizer", default="", metavar="FILE", help="default: the one with the weights")
  add("--res", type=int, default=0, help="pixels; 0: the weights'")
  add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
  add("--batch_size", type=int, default=8)
  add("--max_new_tokens", type=int, default=64)
  add("--temperature", type=float, help="draw answers; 0: greedy (default, unless one below draws)")
  add("--top_k", type=int, default=0, help="draw from so many most likely tokens; 0: all")
  add("--top_p", type=float, default=1.0, help="draw from the fewest that have this probability")
  add("--sampler", default="greedy", help="the same in one: 'top_k(40, 0.7)', 'nucleus(0.9)'")
  add("--repetition_penalty", type=float, default=1.0, help="above 1: fewer repeated tokens")
  add("--stop", nargs="*", default=[], metavar="TEXT", help="texts before which an answer ends")
  add("--best_of", type=int, default=1, help="draw so many, keep the most probable")
  add("--beam_size", type=int, default=1, help="above 1: beam search")
  add("--seed", type=int, default=0, help="of what is drawn")
  add("--ban", nargs="*", default=[], metavar="TEXT", help="tokens that no answer holds")
  add("--exif", default="true", choices=tuple(_EXIF), help="false: images as they are stored")
  add("--bad_rows", type=int, default=0, help="rows that may be unreadable; the next one ends it")
  return found


if __name__ == "__main__":
  cli.run("predict", sys.argv[1:])
