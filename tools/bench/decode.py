"""Greedy decoding: seconds per batch and tokens per second, ours and transformers' `generate`.

    python -m tools.bench.decode --model mid --against transformers --json
    python -m tools.bench.decode --model 3b --device gpu --dtype bfloat16 --against transformers

Both sides get the same weights, images and prompts and decode the same number of tokens (no end of
text); loading and compiling are not counted. In float32 they must produce the same tokens. In
bfloat16 logits of many words are equal and rounding decides; it is said how many rows agree.
"""

from __future__ import annotations

import argparse

import numpy as np

from paligemma_jax.core import errors
from tools.bench import compare
from tools.bench import models

_PASSED = ("model", "batch_size", "prompt_len", "new_tokens", "device", "dtype")


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
  """uint8[B, R, R, 3] images and int32[B, T] prompts."""
  model_config = models.MODELS[args.model]
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (args.batch_size, model_config.res, model_config.res, 3), np.uint8)
  text = rng.integers(4, model_config.llm.vocab_size, (args.batch_size, args.prompt_len), np.int32)
  text[:, 0] = 2
  return image, text


def parser() -> argparse.ArgumentParser:
  """The options; both sides read them too."""
  made = compare.arguments(__doc__, ("transformers",))
  made.add_argument("--batch_size", type=int, default=8)
  made.add_argument("--prompt_len", type=int, default=16, help="tokens of text before the answer")
  made.add_argument("--new_tokens", type=int, default=32)
  compare.add_device(made)
  made.add_argument(
    "--weights", default="", help="keep them in this folder and use them again; '': do not"
  )
  return made


def main() -> None:
  """Compares."""
  args = parser().parse_args()
  compare.check_baseline(args)
  with compare.written_weights(args.model, args.dtype, kept=args.weights) as path:
    passed = compare.options(args, _PASSED)
    ours, baseline = compare.compared("decode", args, [f"--weights={path}", *passed])
  num_tokens = args.batch_size * args.new_tokens
  more = {"ours_tokens_per_second": round(num_tokens / ours.median_seconds, 1)}
  if baseline is not None:
    pairs = list(zip(ours.answers[-1], baseline.answers[-1], strict=True))
    num_same = sum(a == b for a, b in pairs)
    if args.dtype == "float32" and num_same < len(pairs):
      raise errors.ConfigError(_difference(ours.answers[-1], baseline.answers[-1], baseline.name))
    more |= {
      "baseline_tokens_per_second": round(num_tokens / baseline.median_seconds, 1),
      "identical_tokens": num_same == len(pairs),
      "identical_rows": num_same,
    }
  compare.show(compare.result("decode", ours, baseline, **more), args.json)


def _difference(ours: list, theirs: list, name: str) -> str:
  rows = [
    (row, next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]))
    for row, (a, b) in enumerate(zip(ours, theirs, strict=True))
    if a != b
  ]
  return f"The tokens differ from {name}'s in {len(rows)} rows; (row, first place): {rows}."


if __name__ == "__main__":
  errors.run_main(main)
